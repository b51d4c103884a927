"""Checks of entries, texts and turns that every source shares.

Texts stay unaltered but for white space at their ends; the placeholder of an image becomes a place
in front of the question or inside it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vchat.base.json_text import is_unicode
from vchat.prep.raw.rejected import Rejected
from vchat.shards.format.record import ImageRef, Round
from vchat.shards.text.placing import PlacedText, place_images

PLACEHOLDER = "<image>"
_NUMBERED_TAG = re.compile(r"<\|?image[ _-]?(\d{1,4})\|?>", re.IGNORECASE)

_MEDIUM_TAG = re.compile(
    r"<(video|audio|speech|sound|point_?cloud|bbox|ref-object)>"
    r"|<\|(image|video|audio|image_pad|video_pad|audio_pad|vision_start|vision_end)\|>"
    r"|<\|?(?:image|img|video|audio)[ _-]?\d+\|?>"
    r"|<(?:ImageHere|image_placeholder|image_here)>"
    r"|<img>[^<]*</img>",
    re.IGNORECASE,
)

_CLOSING_TAG = re.compile(r"</(video|audio|speech|sound|point_?cloud|bbox|ref-object)>", re.I)

MAX_TEXT_CHARACTERS = 2**20
"""Of one question or answer: more than any limit on tokens allows, checked before they are made."""


def id_of(entry: Any, field: str, *, otherwise: int) -> str:
    """Return the id in a field of an entry, or `otherwise`, its number in the file, as text."""
    return str(entry.get(field, otherwise)) if isinstance(entry, Mapping) else str(otherwise)


def require_object(entry: Any) -> Mapping[str, Any]:
    """Return an entry that is a JSON object.

    Raises:
        Rejected: `bad_row` if it is anything else, or beyond the limits of JSON; `bad_text` for a
            row of Parquet that is not Unicode.
    """
    if isinstance(entry, Rejected):
        raise entry
    if not isinstance(entry, Mapping):
        raise Rejected("bad_row", f"the row is {type(entry).__name__}, not an object")
    return entry


def clean_text(value: Any, *, what: str) -> str:
    """Return the text without white space at its ends; it may be empty.

    Raises:
        Rejected: `bad_row` if it is not text, `bad_text` if it is not valid Unicode, `too_long`
            beyond `MAX_TEXT_CHARACTERS`.
    """
    if not isinstance(value, str):
        raise Rejected("bad_row", f"{what} is {type(value).__name__}, not text")
    if len(value) > MAX_TEXT_CHARACTERS:
        raise Rejected("too_long", f"{what} has {len(value)} characters")
    if not is_unicode(value):
        raise Rejected("bad_text", f"{what} is not valid Unicode: {value[:40]!a}")
    return value.strip()


def require_text(value: Any, *, what: str) -> str:
    """Return the text without white space at its ends; it must not be empty.

    Raises:
        Rejected: As `clean_text`, and `empty_text`.
    """
    text = clean_text(value, what=what)
    if not text:
        raise Rejected("empty_text", f"{what} is empty")
    return text


def as_sentence(text: str) -> str:
    """Return a text that ends as a sentence: append a full stop unless it has a mark."""
    return text if text.endswith((".", "!", "?", '"', "'")) else f"{text}."


def file_id(value: Any, *, what: str) -> str:
    """Return an id that names a file: a text or a number.

    Raises:
        Rejected: `bad_id` if it is empty or could lead out of its folder.
    """
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not re.fullmatch(r"\w[\w.-]*", text, re.ASCII):
        raise Rejected("bad_id", f"{what} {value!r} names no file")
    return text


def pair_turns(
    turns: Sequence[tuple[str, Any]], *, user: str, assistant: str
) -> list[tuple[Any, Any]]:
    """Pair `(role, text)` turns into questions and answers.

    Raises:
        Rejected: `bad_role_order` unless roles alternate, start with `user` and end with
            `assistant`; `bad_row` if there are no turns.
    """
    if not turns:
        raise Rejected("bad_row", "the dialogue has no turns")
    for number, (role, _) in enumerate(turns):
        wanted = (user, assistant)[number % 2]
        if role != wanted:
            raise Rejected("bad_role_order", f"turn {number + 1} is by {role!r}, not {wanted!r}")
    if len(turns) % 2:
        raise Rejected("bad_role_order", f"the last of {len(turns)} turns has no answer")
    return [(turns[i][1], turns[i + 1][1]) for i in range(0, len(turns), 2)]


def check_tags(text: str, *, what: str) -> None:
    """Check that no tag in a text stands for a medium that is not shown.

    A tag that is quoted in backticks, or closed as in HTML, is text.

    Raises:
        Rejected: `unsupported_media`.
    """
    closed = {match[1].lower() for match in _CLOSING_TAG.finditer(text)}
    for match in _MEDIUM_TAG.finditer(text):
        is_quoted = text[match.start() - 1 : match.start()] == "`"
        if not is_quoted and (match[1] or "").lower() not in closed:
            raise Rejected("unsupported_media", f"{what} holds {match[0][:60]!r}")


def rounds_with_placeholders(
    pairs: Sequence[tuple[Any, Any]], images: Sequence[ImageRef]
) -> tuple[Round, ...]:
    """Make rounds of pairs whose questions hold an `<image>` for each image they show.

    Images go to placeholders in order. Where no question has one, numbered tags of all images in
    order (`<image_1>`, `<image_2>`) count as such.

    Raises:
        Rejected: `placeholder_mismatch` if placeholders and images differ in number or one
            stands in an answer; `empty_text`, `bad_text`, `bad_row` for the texts;
            `unsupported_media` for the tag of another medium.
    """
    texts = [
        (require_text(q, what=f"question {n}"), require_text(a, what=f"answer {n}"))
        for n, (q, a) in enumerate(pairs, start=1)
    ]
    questions = _name_numbered_tags([question for question, _ in texts], num_images=len(images))
    rounds, num_shown = [], 0
    for number, (question, (_, answer)) in enumerate(zip(questions, texts, strict=True), start=1):
        pieces = question.split(PLACEHOLDER)
        count = len(pieces) - 1
        shown = tuple(images[num_shown : num_shown + count])
        if len(shown) < count:
            continue  # counted, and refused below
        rounds.append(make_round(place_images(pieces), answer, images=shown, number=number))
        num_shown += count
    num_places = sum(question.count(PLACEHOLDER) for question in questions)
    if num_places != len(images):
        raise Rejected("placeholder_mismatch", f"{num_places} places for {len(images)} images")
    return tuple(rounds)


def make_round(
    question: PlacedText, answer: str, *, images: tuple[ImageRef, ...], number: int
) -> Round:
    """Return one round.

    Args:
        question: Its places are those of `images`.
        answer: A text that is not empty.
        images: In the order of the question.
        number: Of the round, for messages.

    Raises:
        Rejected: `placeholder_mismatch` for a placeholder in the answer, `empty_text`,
            `unsupported_media`.
    """
    if PLACEHOLDER in answer:
        raise Rejected("placeholder_mismatch", f"answer {number} holds {PLACEHOLDER}")
    if not question.text.strip():
        raise Rejected("empty_text", f"question {number} is empty beside its image")
    check_tags(question.text, what=f"question {number}")
    check_tags(answer, what=f"answer {number}")
    return Round(images=images, question=question.text, answer=answer, places=question.places)


def _name_numbered_tags(questions: list[str], *, num_images: int) -> list[str]:
    """Return questions with `<image>` for numbered tags, if these name all images once, in order.

    The numbers may begin with 0 or 1.
    """
    numbers = [int(match[1]) for text in questions for match in _NUMBERED_TAG.finditer(text)]
    in_order = [list(range(first, first + num_images)) for first in (0, 1)]
    if any(PLACEHOLDER in text for text in questions) or not numbers or numbers not in in_order:
        return questions
    return [_NUMBERED_TAG.sub(PLACEHOLDER, text) for text in questions]


def rounds_sharing_images(
    pairs: Sequence[tuple[Any, Any]], images: Sequence[ImageRef]
) -> tuple[tuple[Round, ...], Counter[str]]:
    """Make rounds of pairs about the same images, which the first round shows.

    Returns:
        The rounds, and the number of pairs left out because a text is empty.

    Raises:
        Rejected: `empty_text` if no pair is left; `bad_row`, `bad_text` for the texts.
    """
    texts = [
        (clean_text(question, what="question"), clean_text(answer, what="answer"))
        for question, answer in pairs
    ]
    filled = [pair for pair in texts if all(pair)]
    if not filled:
        raise Rejected("empty_text", f"none of {len(texts)} questions has an answer")
    rounds = tuple(
        Round(images=() if number else tuple(images), question=question, answer=answer)
        for number, (question, answer) in enumerate(filled)
    )
    return rounds, Counter(empty_text=len(texts) - len(filled))
