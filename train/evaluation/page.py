"""The page of an evaluation: every question with its images, the answer and the wanted one.

One self-contained file without scripts; images are small copies inside it.
"""

from __future__ import annotations

import base64
import functools
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vchat.base.page import load_page

THUMBNAIL_SIDE = 192
MOST_ROUNDS = 1000
"""Rounds on one page; the files beside it have all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownRound:
    """One question and its answer, ready for the page."""

    group: str
    """The heading: the name of the dialogue, or the kind of question."""

    images: tuple[Path, ...]
    question: str
    wanted: str | None
    answer: str
    is_right: bool | None
    """None if there is no right answer to compare with."""


def evaluation_page(
    rounds: Sequence[ShownRound], *, title: str, scores: Sequence[tuple[str, str]]
) -> str:
    """Return the HTML of a page; `scores` are lines of name and value above the rounds."""
    page = load_page(Path(__file__).with_name("evaluation.html"))
    shown = rounds[:MOST_ROUNDS]
    groups = itertools.groupby(shown, key=lambda one: one.group)
    return page.render(
        title=title,
        scores=scores,
        groups=[(name, list(members)) for name, members in groups],
        num_left_out=len(rounds) - len(shown),
        thumbnail=thumbnail,
    )


@functools.lru_cache(maxsize=4096)
def thumbnail(path: Path) -> str:
    """Return a small JPEG copy of an image as a data URI."""
    with Image.open(path) as image:
        small = image.convert("RGB")
        small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        file = io.BytesIO()
        small.save(file, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
