"""OpenAI `messages`: user and assistant turns whose content is text or a list of parts.

An image is a part of its own (`{"type": "image_url", "image_url": {"url": path}}` or `{"type":
"image", "image": path}`), or an `<image>` in the text together with the entry's `images`. A system
message is rejected: the template gives the system text for the whole build.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from vchat.prep.raw.rejected import Rejected
from vchat.prep.sources.texts import pair_turns, require_text, rounds_with_placeholders
from vchat.shards.format.record import ImageRef, Round


def num_assistant_turns(messages: Any) -> int:
    """Return the number of answers in a list of messages, 0 if it is not a list."""
    if not isinstance(messages, list):
        return 0
    return sum(isinstance(one, Mapping) and one.get("role") == "assistant" for one in messages)


def rounds_of_messages(
    messages: Any, images: Sequence[ImageRef], *, make_image: Callable[[Any], ImageRef]
) -> tuple[Round, ...]:
    """Return the rounds of one dialogue.

    Args:
        messages: The list as the file holds it.
        images: The images that the entry names, for texts with `<image>`.
        make_image: Turns the value of an image part into a reference.

    Raises:
        Rejected: `bad_row`, `bad_role_order` (also for a system or tool message),
            `placeholder_mismatch`, `empty_text`, `bad_text`.
    """
    if not isinstance(messages, list):
        raise Rejected("bad_row", "`messages` is not a list")
    turns = [_role_and_content(message) for message in messages]
    pairs = pair_turns(turns, user="user", assistant="assistant")
    if not any(isinstance(question, list) for question, _ in pairs):
        return rounds_with_placeholders(
            [(question, _text(answer)) for question, answer in pairs], images
        )
    if images:
        raise Rejected("placeholder_mismatch", "images both beside and inside the messages")
    return tuple(_round(question, answer, make_image=make_image) for question, answer in pairs)


def _role_and_content(message: Any) -> tuple[str, Any]:
    if not isinstance(message, Mapping):
        raise Rejected("bad_row", f"a message is {type(message).__name__}, not an object")
    return str(message.get("role")), message.get("content")


def _round(question: Any, answer: Any, *, make_image: Callable[[Any], ImageRef]) -> Round:
    """Make one round, with its images in the order of their parts."""
    parts = list(_parts(question))
    return Round(
        images=tuple(make_image(value) for kind, value in parts if kind == "image"),
        question=require_text(_text(question), what="a question"),
        answer=require_text(_text(answer), what="an answer"),
    )


def _text(content: Any) -> Any:
    """Return the text of a content; return a value that is neither text nor parts unchanged."""
    if not isinstance(content, list):
        return content
    return "\n".join(str(value) for kind, value in _parts(content) if kind == "text")


def _parts(content: Any) -> Iterator[tuple[str, Any]]:
    """Yield `("text" or "image", value)` of each part of a content."""
    for part in content if isinstance(content, list) else [{"type": "text", "text": content}]:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text":
            yield "text", require_text(part.get("text"), what="a text part")
        elif kind == "image_url":
            value = part.get("image_url")
            yield "image", value.get("url") if isinstance(value, Mapping) else value
        elif kind == "image":
            yield "image", part.get("image", part.get("path"))
        else:
            raise Rejected("bad_row", f"a part of type {kind!r}; known: text, image_url, image")
