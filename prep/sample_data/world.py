"""The sample world: what can be in a picture, and how pictures are chosen.

A *scene* has one to four things of different shapes and colours, each in its own quarter of the
picture, so every question about a thing has one answer. A *cover* is a coloured page with one
printed word. A *pair* is two scenes that differ in exactly one thing. Nothing here draws or writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from vchat.prep.sample_data.draws import Draws

SHAPES = ("circle", "square", "triangle", "cross", "ring")
COLORS = ("red", "green", "blue", "yellow", "purple", "white")
PLACES = ("top left", "top right", "bottom left", "bottom right")
NUMBERS = ("zero", "one", "two", "three", "four")
WORDS = ("cat", "sun", "box", "key", "map", "fig", "owl", "jet")
GENRES = ("cooking", "nature", "travel", "children", "history", "science")
"""The genre of a book by the colour of its cover, in the order of `COLORS`."""

Change = Literal["color", "shape", "position", "number"]
CHANGES: tuple[Change, ...] = ("color", "shape", "position", "number")


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One coloured shape in one quarter of the picture."""

    shape: str
    color: str
    place: str

    @property
    def name(self) -> str:
        """Colour and shape, such as `red circle`: unique in its scene."""
        return f"{self.color} {self.shape}"


@dataclass(frozen=True, slots=True)
class Scene:
    """One to four things in reading order, no two of one shape, colour or place."""

    things: tuple[Thing, ...]

    def __post_init__(self) -> None:
        for field in ("shape", "color", "place"):
            values = [getattr(thing, field) for thing in self.things]
            if len(set(values)) != len(values):
                raise ValueError(f"a scene has no {field} twice, got {values}")
        if list(self.things) != in_reading_order(self.things):
            raise ValueError(f"things come in reading order, got {self.things}")

    @property
    def number(self) -> str:
        """The number of things, as a word."""
        return NUMBERS[len(self.things)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cover:
    """The cover of a book: a printed word on a coloured page."""

    word: str
    color: str

    @property
    def genre(self) -> str:
        """The genre of books of this colour."""
        return GENRES[COLORS.index(self.color)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenePair:
    """Two scenes that differ in one thing; unless the number differs, both have it in some form."""

    first: Scene
    second: Scene
    change: Change

    def odd_things(self) -> list[Thing]:
        """Return the things that are in one of the two scenes only: one or two."""
        both = set(self.first.things) & set(self.second.things)
        return [thing for thing in (*self.first.things, *self.second.things) if thing not in both]

    def has_first(self, thing: Thing) -> bool:
        """Return whether the first scene has this thing."""
        return thing in self.first.things


def in_reading_order(things: Sequence[Thing]) -> list[Thing]:
    """Return the things row by row, from left to right."""
    return sorted(things, key=lambda thing: PLACES.index(thing.place))


def scene_of(things: Sequence[Thing]) -> Scene:
    """Return the scene of these things, which may come in any order."""
    return Scene(tuple(in_reading_order(things)))


def draw_scene(draws: Draws, *, number: int) -> Scene:
    """Choose a scene of `number` things; all such scenes are equally likely."""
    return scene_of(
        [
            Thing(shape=shape, color=color, place=place)
            for shape, color, place in zip(
                draws.some(SHAPES, number),
                draws.some(COLORS, number),
                draws.some(PLACES, number),
                strict=True,
            )
        ]
    )


def draw_cover(draws: Draws) -> Cover:
    """Choose a cover; all are equally likely."""
    return Cover(word=draws.pick(WORDS), color=draws.pick(COLORS))


def draw_pair(draws: Draws, *, change: Change) -> ScenePair:
    """Choose two scenes of one to four things that differ in `change` alone.

    The order of the two is random, so it does not depend on the change. A thing can move or be
    added only where a quarter is free.
    """
    most = 3 if change in ("position", "number") else 4
    base = draw_scene(draws, number=draws.between(1, most))
    chosen = draws.pick(base.things)
    if change == "number":
        other = scene_of([*base.things, draw_other(draws, base, number=1)[0]])
    else:
        others = [thing for thing in base.things if thing != chosen]
        other = scene_of([*others, change_thing(draws, chosen, base=base, change=change)])
    first, second = draws.shuffle((base, other))
    return ScenePair(first=first, second=second, change=change)


def change_thing(draws: Draws, thing: Thing, *, base: Scene, change: Change) -> Thing:
    """Return the thing with a colour, shape or place that no thing of `base` has."""
    if change == "color":
        return replace(
            thing, color=draws.pick(free_choices(COLORS, [t.color for t in base.things]))
        )
    if change == "shape":
        return replace(
            thing, shape=draws.pick(free_choices(SHAPES, [t.shape for t in base.things]))
        )
    return replace(thing, place=draws.pick(free_choices(PLACES, [t.place for t in base.things])))


def draw_other(draws: Draws, base: Scene, *, number: int) -> list[Thing]:
    """Draw `number` things that could be added to the scene."""
    shapes = draws.some(free_choices(SHAPES, [t.shape for t in base.things]), number)
    colors = draws.some(free_choices(COLORS, [t.color for t in base.things]), number)
    places = draws.some(free_choices(PLACES, [t.place for t in base.things]), number)
    return [
        Thing(shape=shape, color=color, place=place)
        for shape, color, place in zip(shapes, colors, places, strict=True)
    ]


def free_choices(choices: Sequence[str], taken: Sequence[str]) -> list[str]:
    """Return the choices that are not taken, in order."""
    return [choice for choice in choices if choice not in taken]
