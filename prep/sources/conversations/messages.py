"""OpenAI `messages`: user and assistant turns whose content is text or a list of parts.

An image is a part of its own (`{"type": "image_url", "image_url": {"url": path}}` or `{"type":
"image", "image": path}`, or `{"type": "image"}` for the next of the entry's `images`), or an
`<image>` in the text together with the entry's `images`. A system message opens the dialogue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from vchat.prep.raw.rejected import Rejected
from vchat.prep.sources.conversations.entry_fields import (
    Conversation,
    check_entry_fields,
    check_text_part,
    split_system_turn,
    system_text,
    with_loss_of,
)
from vchat.prep.sources.texts import (
    PLACEHOLDER,
    make_round,
    pair_turns,
    require_text,
    rounds_with_placeholders,
)
from vchat.shards.format.record import ImageRef, Round
from vchat.shards.text.placing import place_parts

_IMAGE = "image"
_TEXT = "text"


def num_assistant_turns(messages: Any) -> int:
    """Return the number of answers in a list of messages, 0 if it is not a list."""
    if not isinstance(messages, list):
        return 0
    return sum(isinstance(one, Mapping) and one.get("role") == "assistant" for one in messages)


def read_messages(
    entry: Mapping[str, Any], images: Sequence[ImageRef], *, make_image: Callable[[Any], ImageRef]
) -> Conversation:
    """Return the rounds and the system text of one entry.

    Args:
        entry: With `messages`.
        images: The images that the entry names, for texts with `<image>` and for parts without a
            value.
        make_image: Turns the value of an image part into a reference.

    Raises:
        Rejected: `bad_row`, `bad_role_order` (also for a tool message), `placeholder_mismatch`,
            `empty_text`, `bad_text`, and those of `entry_fields`.
    """
    messages = entry["messages"]
    if not isinstance(messages, list):
        raise Rejected("bad_row", "`messages` is not a list")
    check_entry_fields(entry)
    turns = [(_role(message), message) for message in messages]
    first, turns = split_system_turn(turns, names=("system", "developer"))
    pairs = pair_turns(turns, user="user", assistant="assistant")
    texts = [(question.get("content"), _text(answer.get("content"))) for question, answer in pairs]
    if any(kind == _IMAGE for question, _ in texts for kind, _ in _parts(question)):
        rounds = _rounds_of_parts(texts, images, make_image=make_image)
    else:
        texts = [(_text(question), answer) for question, answer in texts]
        rounds = rounds_with_placeholders(texts, images)
    return Conversation(
        rounds=with_loss_of(rounds, pairs),
        system=system_text(entry, None if first is None else _text(first.get("content"))),
    )


def _role(message: Any) -> str:
    if not isinstance(message, Mapping):
        raise Rejected("bad_row", f"a message is {type(message).__name__}, not an object")
    return str(message.get("role"))


def _rounds_of_parts(
    texts: Sequence[tuple[Any, Any]],
    images: Sequence[ImageRef],
    *,
    make_image: Callable[[Any], ImageRef],
) -> tuple[Round, ...]:
    """Make rounds with their images in the order and at the places of their parts."""
    pairs = [(list(_parts(question)), answer) for question, answer in texts]
    values = [value for parts, _ in pairs for kind, value in parts if kind == _IMAGE]
    given = [value for value in values if value is not None]
    if given and images:
        raise Rejected("placeholder_mismatch", "images both beside and inside the messages")
    if not given and len(values) != len(images):
        raise Rejected("placeholder_mismatch", f"{len(values)} parts for {len(images)} images")
    if given and len(given) < len(values):
        raise Rejected("bad_row", "an image part names no image")
    shown = iter(images if images else [make_image(value) for value in given])
    rounds = []
    for number, (parts, answer) in enumerate(pairs, start=1):
        if any(kind == _TEXT and PLACEHOLDER in value for kind, value in parts):
            raise Rejected(
                "placeholder_mismatch", f"question {number} holds {PLACEHOLDER} beside image parts"
            )
        asked = place_parts([None if kind == _IMAGE else value for kind, value in parts])
        of_round = tuple(next(shown) for kind, _ in parts if kind == _IMAGE)
        said = require_text(answer, what=f"answer {number}")
        rounds.append(make_round(asked, said, images=of_round, number=number))
    return tuple(rounds)


def _text(content: Any) -> Any:
    """Return the text of a content; return a value that is neither text nor parts unchanged.

    Raises:
        Rejected: `placeholder_mismatch` if it has an image.
    """
    if not isinstance(content, list):
        return content
    parts = list(_parts(content))
    if any(kind == _IMAGE for kind, _ in parts):
        raise Rejected("placeholder_mismatch", "an image in an answer or in a system message")
    return "\n".join(value for _, value in parts)


def _parts(content: Any) -> Iterator[tuple[str, Any]]:
    """Yield `("text" or "image", value)` of each part of a content."""
    for part in content if isinstance(content, list) else [{"type": "text", "text": content}]:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text":
            check_text_part(part)
            yield _TEXT, require_text(part.get("text"), what="a text part")
        elif kind in ("image_url", "image"):
            yield _IMAGE, _image_value(part)
        else:
            raise Rejected(
                "bad_row" if kind is None else "unsupported_media",
                f"a part of type {kind!r}; known: text, image_url, image",
            )


def _image_value(part: Mapping[str, Any]) -> Any:
    """Return what names the image of a part, or None."""
    for name in ("image_url", "image", "path", "url"):
        value = part.get(name)
        if isinstance(value, Mapping) and "url" in value:
            value = value["url"]
        if value not in (None, ""):
            return value
    return None
