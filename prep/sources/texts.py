"""Checks of entries, texts and turns that every source shares.

Texts stay unaltered but for white space at their ends; the placeholder of an image is removed
without gluing the words around it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vchat.base.json_text import is_unicode
from vchat.prep.raw.rejected import Rejected
from vchat.shards.format.record import ImageRef, Round

PLACEHOLDER = "<image>"

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


def remove_placeholders(text: str) -> tuple[str, int]:
    """Remove every `<image>` of a text; return the text and the number removed.

    A line break next to a placeholder is removed too, unless that would glue two lines; a
    placeholder between two words leaves one blank.
    """
    text, *rest = text.split(PLACEHOLDER)
    for piece in rest:
        text = _join_pieces(text, piece)
    return text.strip(), len(rest)


def _join_pieces(left: str, right: str) -> str:
    if not left.strip() or not right.strip():
        return left.rstrip() + right.lstrip(" \n") if not left.strip() else left.rstrip() + right
    if left.endswith("\n") or right.startswith("\n"):
        return left.removesuffix("\n") + "\n" + right.removeprefix("\n")
    return left.rstrip(" ") + " " + right.lstrip(" ")


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


def rounds_with_placeholders(
    pairs: Sequence[tuple[Any, Any]], images: Sequence[ImageRef]
) -> tuple[Round, ...]:
    """Make rounds of pairs whose questions hold an `<image>` for each image they show.

    Images go to placeholders in order.

    Raises:
        Rejected: `placeholder_mismatch` if placeholders and images differ in number or one
            stands in an answer; `empty_text`, `bad_text`, `bad_row` for the texts.
    """
    rounds, num_shown = [], 0
    for number, (question, answer) in enumerate(pairs, start=1):
        text, count = remove_placeholders(require_text(question, what=f"question {number}"))
        answer_text = require_text(answer, what=f"answer {number}")
        if PLACEHOLDER in answer_text:
            raise Rejected("placeholder_mismatch", f"answer {number} holds {PLACEHOLDER}")
        if not text:
            raise Rejected("empty_text", f"question {number} is empty beside its image")
        shown = tuple(images[num_shown : num_shown + count])
        rounds.append(Round(images=shown, question=text, answer=answer_text))
        num_shown += count
    if num_shown != len(images):
        raise Rejected("placeholder_mismatch", f"{num_shown} places for {len(images)} images")
    return tuple(rounds)


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
