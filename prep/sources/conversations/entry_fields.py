"""What an entry, a turn or a text says beside questions and answers: honoured, or a rejection.

An entry is never used with a part of it left out. A system text and answers without loss are
carried into the record; videos, tools, weights and images in wrong places reject the entry.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vchat.prep.raw.rejected import Rejected
from vchat.prep.sources.texts import PLACEHOLDER, check_tags, require_text
from vchat.shards.format.record import Round

SYSTEM_FIELDS = (
    *("system", "system_prompt", "system_message", "system_text", "system_instruction"),
    *("system_instructions", "sys_prompt"),
)
LOSS_FIELDS = (
    *("loss", "loss_weight", "loss_scale", "weight", "train", "trainable", "training"),
    *("train_on_turn", "supervised", "compute_loss", "has_loss"),
)
"""Fields of an answer that say whether it carries loss: true or 1, false or 0.

The names of fields are compared without case.
"""

_MASKS = ("loss_mask", "mask", "masked", "label_mask", "mask_loss", "ignore", "ignore_loss")
"""Fields about loss that some mean one way and some the other: refused whatever they say."""

_OTHER_MEDIA = re.compile(
    r"(videos?|audios?|speech|sounds?|gifs?|point_?clouds?|clips?|depths?|pdfs?)"
    r"(_(paths?|urls?|files?|lists?|frames?|maps?))?",
    re.I,
)
_OTHER_IMAGES = re.compile(
    r"(imgs?|pictures?|photos?|frames|(image|img)_?\d+)(_(paths?|urls?|files?|lists?))?", re.I
)
"""Fields with images that `image` and `images` cannot be a copy of."""

_PATHS_OF_IMAGES = re.compile(r"images?_(paths?|urls?|files?|lists?)", re.I)
"""Fields that repeat `image` or `images` where there is one."""

_UNUSED_FIELDS = (
    "tools",
    "functions",
    "tool_calls",
    "function_call",
    "documents",
    "history",
    "chosen",
    "rejected",
    "rejected_response",
    "rejected_messages",
    "mask_history",
    "train_on_last_only",
    "train_on_last_turn",
    "last_turn_only",
)
_UNUSED_IN_TURNS = (
    *_UNUSED_FIELDS,
    "image",
    "images",
    "image_url",
    "refusal",
    "reasoning",
    "reasoning_content",
    "thinking",
    "train_detail",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What an entry says, in full."""

    rounds: tuple[Round, ...]
    system: str | None
    """Its own system text."""


def check_entry_fields(entry: Mapping[str, Any]) -> None:
    """Check that an entry has no field that is neither honoured nor without effect.

    Raises:
        Rejected: `unsupported_media`, `unsupported_field`, or `no_loss` if the whole entry is
            without loss.
    """
    entry = _lower_names(entry)
    _refuse_media(entry, what="the row")
    _refuse_fields(entry, _UNUSED_FIELDS, what="the row")
    _refuse_masks(entry, what="the row")
    has_images = not (_is_empty(entry.get("image")) and _is_empty(entry.get("images")))
    for name, value in entry.items():
        if not has_images and _PATHS_OF_IMAGES.fullmatch(str(name)) and not _is_empty(value):
            raise Rejected("unsupported_field", f"images in {name!r}; wanted `image` or `images`")
    if not _carries_loss(entry, what="the row"):
        raise Rejected("no_loss", "the row is without loss")


def split_system_turn(
    turns: list[tuple[str, Any]], *, names: Iterable[str]
) -> tuple[Any, list[tuple[str, Any]]]:
    """Return what a system turn at the beginning holds, or None, and the turns after it."""
    if turns and turns[0][0] in names:
        return turns[0][1], turns[1:]
    return None, turns


def system_text(entry: Mapping[str, Any], turn: Any) -> str | None:
    """Return the system text of an entry, in one of `SYSTEM_FIELDS` or a turn, or None.

    Raises:
        Rejected: `unsupported_field` if there are different ones; `bad_row`, `bad_text`.
    """
    named = _lower_names(entry)
    given = [named.get(name) for name in SYSTEM_FIELDS] + [turn]
    texts = {require_text(value, what="the system text") for value in given if not _is_empty(value)}
    if len(texts) > 1:
        raise Rejected("unsupported_field", f"{len(texts)} different system texts")
    for text in texts:
        check_tags(text, what="the system text")
        if PLACEHOLDER in text:
            raise Rejected("placeholder_mismatch", f"the system text holds {PLACEHOLDER}")
    return next(iter(texts), None)


def with_loss_of(
    rounds: Sequence[Round], pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]
) -> tuple[Round, ...]:
    """Return the rounds, those without loss whose answers say so.

    Args:
        rounds: Of one entry.
        pairs: The turns of their questions and answers.

    Raises:
        Rejected: `no_loss` if no answer carries loss; `unsupported_field` for a weight between, for
            loss on a question, or for a field that we do not honour; `unsupported_media`.
    """
    found = []
    for number, (round_, pair) in enumerate(zip(rounds, pairs, strict=True), start=1):
        question, answer = (_lower_names(turn) for turn in pair)
        for turn, what in ((question, f"question {number}"), (answer, f"answer {number}")):
            _refuse_media(turn, what=what)
            _refuse_fields(turn, _UNUSED_IN_TURNS, what=what)
            _refuse_masks(turn, what=what)
        if any(not _is_empty(question.get(name)) for name in LOSS_FIELDS):
            raise Rejected("unsupported_field", f"question {number} asks for loss on it")
        supervised = _carries_loss(answer, what=f"answer {number}")
        found.append(round_ if supervised else replace(round_, supervised=False))
    if not any(round_.supervised for round_ in found):
        raise Rejected("no_loss", f"none of {len(found)} answers carries loss")
    return tuple(found)


def check_text_part(part: Mapping[str, Any]) -> None:
    """Check that a text part of a content says nothing but its text.

    Raises:
        Rejected: `unsupported_media`, `unsupported_field`.
    """
    part = _lower_names(part)
    _refuse_media(part, what="a text part")
    _refuse_fields(part, _UNUSED_IN_TURNS, what="a text part")
    _refuse_masks(part, what="a text part")
    if not _carries_loss(part, what="a text part"):
        raise Rejected("unsupported_field", "a text part is without loss")


def _lower_names(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields by their names in lower case; of equal names the first that says more."""
    named: dict[str, Any] = {}
    for name, value in fields.items():
        lower = str(name).lower()
        if named.get(lower) is None:
            named[lower] = value
    return named


def _refuse_masks(fields: Mapping[str, Any], *, what: str) -> None:
    for name in _MASKS:
        if fields.get(name) not in (None, [], "", {}):
            raise Rejected("unsupported_field", f"{what} has {name!r}")


def _refuse_media(fields: Mapping[str, Any], *, what: str) -> None:
    for name, value in fields.items():
        other = _OTHER_MEDIA.fullmatch(str(name)) or _OTHER_IMAGES.fullmatch(str(name))
        if other and not _is_empty(value):
            raise Rejected("unsupported_media", f"{what} has {name!r}")


def _refuse_fields(fields: Mapping[str, Any], names: Iterable[str], *, what: str) -> None:
    for name in names:
        if not _is_empty(fields.get(name)):
            raise Rejected("unsupported_field", f"{what} has {name!r}")


def _carries_loss(fields: Mapping[str, Any], *, what: str) -> bool:
    """Return what the loss fields say; without one, that it carries loss."""
    says = set()
    for name in LOSS_FIELDS:
        value = fields.get(name)
        if value is None:
            continue
        if not isinstance(value, int | float) or value not in (0, 1):
            raise Rejected("unsupported_field", f"{what} has {name} {value!r:.40}; wanted 0 or 1")
        says.add(bool(value))
    if len(says) > 1:
        raise Rejected("unsupported_field", f"{what} says that it carries loss, and that not")
    return says != {False}


def _is_empty(value: Any) -> bool:
    """Return whether a field says nothing: null, false, 0, empty, or the JSON text of these."""
    return not value or value in ("[]", "{}", "null")
