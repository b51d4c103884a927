"""Questions about held-out pictures, for `vchat-train eval`.

Within a kind every answer is right equally often, and pictures are chosen to fit the answer, so a
guess without the picture is right with the stated chance. The pictures are drawn from keys of
their own: none is among the training pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vchat.prep.sample_data import questions
from vchat.prep.sample_data.draw import draw_picture
from vchat.prep.sample_data.draws import Draws
from vchat.prep.sample_data.questions import QuestionAnswer
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

MIN_QUESTIONS = 48
"""Questions per kind; rounded up so that every answer is right equally often."""

PicturedQuestion = tuple[list[Scene | Cover], QuestionAnswer]
"""The subject of each image, and a question about them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionKind:
    """One kind of question."""

    name: str
    answers: Sequence[str]
    ask: Callable[[Draws], PicturedQuestion]
    """Draws subjects and a question about them, with any of the answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationItem:
    """One question of the evaluation."""

    kind: QuestionKind
    number: int
    images: list[Image.Image]
    asked: QuestionAnswer

    @property
    def id(self) -> str:
        """The name of the kind and a number within it."""
        return f"{self.kind.name}-{self.number:03d}"

    @property
    def files(self) -> list[str]:
        """The paths of its images, relative to the data folder."""
        return [f"eval/images/{self.id}-{k}.jpg" for k in range(1, len(self.images) + 1)]


def draw_items(seed: int) -> list[EvaluationItem]:
    """Draw all questions, in an order that does not depend on the answers."""
    items = [
        draw_item(kind, number, Draws(seed, "eval", kind.name, number))
        for kind in KINDS
        for number in range(-(-MIN_QUESTIONS // len(kind.answers)) * len(kind.answers))
    ]
    return Draws(seed, "eval", "order").shuffle(items)


def draw_item(kind: QuestionKind, number: int, draws: Draws) -> EvaluationItem:
    """Draw until the answer is number `number` of the kind's answers, counted cyclically."""
    wanted = kind.answers[number % len(kind.answers)]
    while True:
        shown, asked = kind.ask(draws)
        if asked[1] == wanted:
            images = [draw_picture(each, draws) for each in shown]
            return EvaluationItem(kind=kind, number=number, images=images, asked=asked)


def write_evaluation(
    root: Path, items: Sequence[EvaluationItem], *, advance: Callable[[int], None]
) -> None:
    """Write `eval.json` and the images under `eval/images/`."""
    for item in items:
        for file, image in zip(item.files, item.images, strict=True):
            write_jpeg(root / file, image)
        advance(len(item.images))
    write_json(root / "eval.json", [item_entry(item) for item in items])


def item_entry(item: EvaluationItem) -> dict[str, Any]:
    """Return the element of `eval.json` for one question."""
    question, answer = item.asked
    return {
        "id": item.id,
        "kind": item.kind.name,
        "images": item.files,
        "question": question,
        "answer": answer,
        "chance": 1 / len(item.kind.answers),
    }


def about_one_thing(ask: Callable[..., QuestionAnswer]) -> Callable[[Draws], PicturedQuestion]:
    """Return a function that draws a scene of one to four things and asks about one of them."""

    def draw(draws: Draws) -> PicturedQuestion:
        scene = draw_scene(draws, number=draws.between(1, 4))
        return [scene], ask(draws.pick(scene.things))

    return draw


def about_number(draws: Draws) -> PicturedQuestion:
    """Ask how many things there are."""
    scene = draw_scene(draws, number=draws.between(1, 4))
    return [scene], questions.number_in(scene)


def about_word(draws: Draws) -> PicturedQuestion:
    """Ask for the printed word."""
    cover = draw_cover(draws)
    return [cover], questions.title_of(cover)


def about_which_image(draws: Draws) -> PicturedQuestion:
    """Ask which image has what only one of them has."""
    pair = draw_pair(draws, change=draws.pick(CHANGES))
    asked = questions.which_image(pair, draws.pick(pair.odd_things()))
    return [pair.first, pair.second], asked


def about_difference(draws: Draws) -> PicturedQuestion:
    """Ask what changed."""
    pair = draw_pair(draws, change=draws.pick(CHANGES))
    return [pair.first, pair.second], questions.what_changed(pair)


def about_numbered_image(draws: Draws) -> PicturedQuestion:
    """Ask for the colour of the thing whose colour changed, in the image of one number."""
    pair = draw_pair(draws, change="color")
    return [pair.first, pair.second], questions.color_in_image(pair, draws)


KINDS = (
    QuestionKind(name="color", answers=COLORS, ask=about_one_thing(questions.color_of)),
    QuestionKind(name="shape", answers=SHAPES, ask=about_one_thing(questions.shape_of)),
    QuestionKind(name="position", answers=PLACES, ask=about_one_thing(questions.place_of)),
    QuestionKind(name="count", answers=NUMBERS[1:], ask=about_number),
    QuestionKind(name="word", answers=WORDS, ask=about_word),
    QuestionKind(name="which_image", answers=("Image 1", "Image 2"), ask=about_which_image),
    QuestionKind(name="difference", answers=CHANGES, ask=about_difference),
    QuestionKind(name="numbered_image", answers=COLORS, ask=about_numbered_image),
)
