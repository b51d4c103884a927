"""LLaVA's form of an entry: `conversations` of human and gpt, `<image>` in the human's text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vchat.prep.raw.rejected import Rejected
from vchat.prep.sources.conversations.entry_fields import (
    Conversation,
    check_entry_fields,
    split_system_turn,
    system_text,
    with_loss_of,
)
from vchat.prep.sources.texts import pair_turns, rounds_with_placeholders
from vchat.shards.format.record import ImageRef


def num_answers(entry: Any) -> int:
    """Return the number of gpt turns in an entry, 0 if it is not an object."""
    turns = entry.get("conversations") if isinstance(entry, Mapping) else None
    return sum(_role(turn) == "gpt" for turn in turns) if isinstance(turns, list) else 0


def read_conversation(entry: Mapping[str, Any], images: Sequence[ImageRef]) -> Conversation:
    """Return the rounds and the system text of one entry.

    Every image has its placeholder in a human turn.

    Raises:
        Rejected: `bad_row`, `bad_role_order`, `placeholder_mismatch`, `empty_text`, `bad_text`, and
            those of `entry_fields`.
    """
    turns = entry.get("conversations")
    if not isinstance(turns, list):
        raise Rejected("bad_row", "`conversations` is not a list")
    check_entry_fields(entry)
    spoken: list[tuple[str, Any]] = [(_role(turn), turn) for turn in _check_turns(turns)]
    first, spoken = split_system_turn(spoken, names=("system",))
    pairs = pair_turns(spoken, user="human", assistant="gpt")
    texts = [(question.get("value"), answer.get("value")) for question, answer in pairs]
    return Conversation(
        rounds=with_loss_of(rounds_with_placeholders(texts, images), pairs),
        system=system_text(entry, None if first is None else first.get("value")),
    )


def _check_turns(turns: Sequence[Any]) -> Sequence[Mapping[str, Any]]:
    for turn in turns:
        if not isinstance(turn, Mapping):
            raise Rejected("bad_row", f"a turn is {type(turn).__name__}, not an object")
    return turns


def _role(turn: Any) -> str:
    return str(turn.get("from")) if isinstance(turn, Mapping) else ""
