"""Where the images of a question stand: in front of its round, or at a place inside its text.

In: the texts around the images, as an annotation or a chat request has them. Out: the question and
a place per image, as `TextRound` takes them. Training data and chat requests both come through
here, so a chat prompt is laid out as a training text is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class PlacedText:
    """A question without its images, and where they stand."""

    text: str
    """Without outer blanks, except those before an image that ends it."""

    places: tuple[int, ...] = ()
    """As in `TextRound`: empty if all images stand in front."""


def place_images(pieces: Sequence[str]) -> PlacedText:
    """Return the question that pieces of text make, with an image between each two of them.

    Images alone on the first or last lines stand in front, as LLaVA means them. So do images that
    open the first line of text, if none stands further inside. All others stay at their places.
    """
    num_images = len(pieces) - 1
    num_opening = next((i for i, piece in enumerate(pieces) if piece.strip()), num_images)
    text, *after = pieces[num_opening:]
    if not any(piece.strip() for piece in after) and (not after or _ends_a_line(text)):
        return PlacedText(text.strip())
    num_front = max(
        (i for i, piece in enumerate(pieces[: num_opening + 1]) if i and _begins_a_line(piece)),
        default=0,
    )
    inside = [pieces[num_front].lstrip(), *pieces[num_front + 1 : -1], pieces[-1].rstrip()]
    places = tuple(accumulate(len(piece) for piece in inside[:-1]))
    return PlacedText("".join(inside), (-1,) * num_front + places)


def place_parts(parts: Sequence[str | None]) -> PlacedText:
    """Return the question that parts make, each on lines of its own; None is an image."""
    pieces = [""]
    for number, part in enumerate(parts):
        pieces[-1] += "\n" if number else ""
        if part is None:
            pieces.append("")
        else:
            pieces[-1] += part.strip()
    return place_images(pieces)


def _ends_a_line(text: str) -> bool:
    return text.rstrip(" \t\r").endswith("\n")


def _begins_a_line(text: str) -> bool:
    """Return whether a line break comes before any other character that shows."""
    return "\n" in text[: len(text) - len(text.lstrip())]
