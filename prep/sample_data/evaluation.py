"""Questions about held-out pictures, for `vchat-train eval`.

Within a kind every answer is right equally often, and the pictures are chosen after the answer, so
a guess without the picture is right with the stated chance. The pictures come from draws of their
own: none is among the training pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vchat.prep.sample_data import questions
from vchat.prep.sample_data.draw import picture
from vchat.prep.sample_data.draws import Draws
from vchat.prep.sample_data.questions import Asked
from vchat.prep.sample_data.world import (
    CHANGES,
    COLORS,
    NUMBERS,
    PLACES,
    SHAPES,
    WORDS,
    Cover,
    Scene,
    draw_cover,
    draw_pair,
    draw_scene,
)
from vchat.prep.sample_data.write import write_jpeg, write_json

AT_LEAST = 48
"""Questions per kind; rounded up so that every answer is right equally often."""

Pictured = tuple[list[Scene | Cover], Asked]
"""What is shown, image by image, and what is asked about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of question."""

    name: str
    answers: Sequence[str]
    ask: Callable[[Draws], Pictured]
    """Draws pictures and a question about them, with any of the answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question of the evaluation."""

    kind: Kind
    number: int
    images: list[Image.Image]
    asked: Asked

    @property
    def id(self) -> str:
        """Return the kind and a number within it."""
        return f"{self.kind.name}-{self.number:03d}"

    @property
    def files(self) -> list[str]:
        """Return the paths of its images, relative to the data folder."""
        return [f"eval/images/{self.id}-{k}.jpg" for k in range(1, len(self.images) + 1)]


def items(seed: int) -> list[Item]:
    """Draw all questions, in an order that says nothing about the answers."""
    found = [
        item_of(kind, number, Draws(seed, "eval", kind.name, number))
        for kind in KINDS
        for number in range(-(-AT_LEAST // len(kind.answers)) * len(kind.answers))
    ]
    return Draws(seed, "eval", "order").ordered(found)


def item_of(kind: Kind, number: int, draws: Draws) -> Item:
    """Draw until the answer is the one whose turn it is."""
    wanted = kind.answers[number % len(kind.answers)]
    while True:
        shown, asked = kind.ask(draws)
        if asked[1] == wanted:
            images = [picture(each, draws) for each in shown]
            return Item(kind=kind, number=number, images=images, asked=asked)


def write_evaluation(root: Path, found: Sequence[Item], *, done: Callable[[int], None]) -> None:
    """Write `eval.json` and the images under `eval/images/`."""
    for item in found:
        for file, image in zip(item.files, item.images, strict=True):
            write_jpeg(root / file, image)
        done(len(item.images))
    write_json(root / "eval.json", [entry(item) for item in found])


def entry(item: Item) -> dict[str, Any]:
    """Return one element of `eval.json`."""
    question, answer = item.asked
    return {
        "id": item.id,
        "kind": item.kind.name,
        "images": item.files,
        "question": question,
        "answer": answer,
        "chance": 1 / len(item.kind.answers),
    }


def about_one_thing(ask: Callable[..., Asked]) -> Callable[[Draws], Pictured]:
    """Return how to ask about one thing of a scene of one to four."""

    def draw(draws: Draws) -> Pictured:
        scene = draw_scene(draws, number=draws.between(1, 4))
        return [scene], ask(draws.pick(scene.things))

    return draw


def about_number(draws: Draws) -> Pictured:
    """Ask how many things there are."""
    scene = draw_scene(draws, number=draws.between(1, 4))
    return [scene], questions.number_in(scene)


def about_word(draws: Draws) -> Pictured:
    """Ask for the printed word."""
    cover = draw_cover(draws)
    return [cover], questions.title_of(cover)


def about_which_image(draws: Draws) -> Pictured:
    """Ask which image has what only one of them has."""
    pair = draw_pair(draws, change=draws.pick(CHANGES))
    asked = questions.which_image(pair, draws.pick(pair.odd_things()))
    return [pair.first, pair.second], asked


def about_difference(draws: Draws) -> Pictured:
    """Ask what changed."""
    pair = draw_pair(draws, change=draws.pick(CHANGES))
    return [pair.first, pair.second], questions.what_changed(pair)


def about_numbered_image(draws: Draws) -> Pictured:
    """Ask for the colour of the thing whose colour changed, in the image of one number."""
    pair = draw_pair(draws, change="color")
    return [pair.first, pair.second], questions.color_in_image(pair, draws)


KINDS = (
    Kind(name="color", answers=COLORS, ask=about_one_thing(questions.color_of)),
    Kind(name="shape", answers=SHAPES, ask=about_one_thing(questions.shape_of)),
    Kind(name="position", answers=PLACES, ask=about_one_thing(questions.place_of)),
    Kind(name="count", answers=NUMBERS[1:], ask=about_number),
    Kind(name="word", answers=WORDS, ask=about_word),
    Kind(name="which_image", answers=("Image 1", "Image 2"), ask=about_which_image),
    Kind(name="difference", answers=CHANGES, ask=about_difference),
    Kind(name="numbered_image", answers=COLORS, ask=about_numbered_image),
)
