"""Read and check chat requests of OpenAI's API.

In: the JSON body of `POST /v1/chat/completions`. Out: a `ChatRequest`. Everything that a client
sends is checked here, and an error names the field as the client wrote it. Images are base64 data
URIs only: the server fetches nothing from a network for a client.
"""

from __future__ import annotations

import base64
import binascii
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vchat.shards.text.placing import PlacedText, place_parts
from vchat.train.chat.generation import Sampling

MAX_NEW_TOKENS = 4096
"""The most that a client may ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRound:
    """One message of the user, and the assistant's answer."""

    images: tuple[bytes, ...]
    """Image files, in the order of the message."""

    question: str
    answer: str | None
    """None for the last round, whose answer is asked for."""

    places: tuple[int, ...] = ()
    """Where the images stand in the question, as in `TextRound`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A dialogue whose last question is to be answered."""

    rounds: tuple[RequestRound, ...]
    system: str | None
    """Replaces the system text that the model was trained with; None keeps that."""

    sampling: Sampling
    seed: int | None
    """Of sampling; None samples afresh."""
    stream: bool


def read_request(body: Any, *, default: Sampling) -> ChatRequest:
    """Check a request's JSON. Unknown fields are ignored, as clients expect.

    Args:
        body: The parsed JSON.
        default: Sampling where the request says nothing.

    Raises:
        ValueError: A field is wrong; names the field, the value found and the value wanted.
    """
    if not isinstance(body, dict):
        raise ValueError(f"the body is {_json_type(body)}, wanted a JSON object")
    if body.get("n") not in (None, 1):
        raise ValueError(f"n is {body['n']!r}, wanted 1: one answer per request")
    system, rounds = _parse_rounds(body.get("messages"))
    limit_name = "max_completion_tokens" if body.get("max_completion_tokens") else "max_tokens"
    return ChatRequest(
        rounds=rounds,
        system=system,
        sampling=Sampling(
            max_new_tokens=_integer(
                body, limit_name, default.max_new_tokens, low=1, high=MAX_NEW_TOKENS
            ),
            temperature=_number(body, "temperature", default.temperature),
            top_p=_number(body, "top_p", default.top_p),
        ),
        seed=_parse_seed(body),
        stream=_flag(body, "stream"),
    )


def _parse_rounds(messages: Any) -> tuple[str | None, tuple[RequestRound, ...]]:
    """Split messages into system text and rounds; the last round has no answer."""
    if not isinstance(messages, list) or not messages:
        found = "empty" if messages == [] else _json_type(messages)
        raise ValueError(f"messages is {found}, wanted an array that ends with a user's")
    system = None
    first = 0
    if isinstance(messages[0], dict) and messages[0].get("role") in ("system", "developer"):
        system, first = _parse_text(messages[0].get("content"), where="messages[0].content"), 1
    turns = messages[first:]
    _check_roles(turns, first=first)
    rounds = []
    for i in range(0, len(turns), 2):
        where = f"messages[{first + i}].content"
        asked, images = _parse_user_content(turns[i].get("content"), where=where)
        answer = None
        if i + 1 < len(turns):
            answer = _parse_text(
                turns[i + 1].get("content"), where=f"messages[{first + i + 1}].content"
            )
        rounds.append(
            RequestRound(images=images, question=asked.text, answer=answer, places=asked.places)
        )
    return system, tuple(rounds)


def _check_roles(turns: Sequence[Any], *, first: int) -> None:
    for i, turn in enumerate(turns):
        wanted = ("user", "assistant")[i % 2]
        role = turn.get("role") if isinstance(turn, dict) else None
        if role != wanted:
            raise ValueError(
                f"messages[{first + i}].role is {role!r}, wanted {wanted!r}:"
                " users and assistants take turns after at most one system message"
            )
    if len(turns) % 2 == 0:
        raise ValueError("messages end without a question, wanted a user's message last")


def _parse_user_content(content: Any, *, where: str) -> tuple[PlacedText, tuple[bytes, ...]]:
    """Return the text and the images of a user's message; an image between texts stays there."""
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise ValueError(f"{where} is {_json_type(content)}, wanted a string or an array of parts")
    texts: list[str | None] = []
    images = []
    for i, part in enumerate(content):
        part_where = f"{where}[{i}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            texts.append(_parse_text(part.get("text"), where=f"{part_where}.text"))
        elif kind == "image_url":
            images.append(_parse_image(part.get("image_url"), where=f"{part_where}.image_url"))
            texts.append(None)
        else:
            raise ValueError(f"{part_where}.type is {kind!r}, wanted 'text' or 'image_url'")
    question = place_parts(texts)
    if not question.text.strip():
        raise ValueError(f"{where} has no text, wanted a question")
    return question, tuple(images)


def _parse_image(value: Any, *, where: str) -> bytes:
    """Return the bytes of `data:image/...;base64,...`, which may stand in `{"url": ...}`."""
    url = value.get("url") if isinstance(value, dict) else value
    if not isinstance(url, str):
        raise ValueError(f"{where}.url is {_json_type(url)}, wanted a string")
    head, comma, data = url.partition(",")
    if not (head.startswith("data:image/") and head.endswith(";base64") and comma):
        raise ValueError(f"{where}.url is {url[:40]!r}, wanted data:image/...;base64,...")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as err:
        raise ValueError(f"{where}.url: not base64: {err}") from err


def _parse_text(content: Any, *, where: str) -> str:
    """Return a text given as a string or as an array of text parts."""
    if isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") == "text" for part in content
    ):
        return "\n".join(_parse_text(part.get("text"), where=where) for part in content)
    if not isinstance(content, str):
        raise ValueError(f"{where} is {_json_type(content)}, wanted a string")
    if any("\ud800" <= character <= "\udfff" for character in content):
        raise ValueError(f"{where} holds half of a surrogate pair, wanted valid Unicode")
    return content


def _integer(body: dict[str, Any], name: str, default: int, *, low: int, high: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r:.40}, wanted a whole number from {low} to {high}")
    return value


def _parse_seed(body: dict[str, Any]) -> int | None:
    """Return the seed; None if there is none, or -1, which says the same."""
    seed = _integer(body, "seed", -1, low=-1, high=2**63 - 1)
    return None if seed == -1 else seed


def _number(body: dict[str, Any], name: str, default: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{name} is {_json_type(value)}, wanted a number")
    if not -sys.float_info.max <= value <= sys.float_info.max:
        raise ValueError(f"{name} is {value!r:.20}, wanted a finite number")
    return float(value)


def _flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    if not isinstance(value, bool | None):
        raise ValueError(f"{name} is {_json_type(value)}, wanted true or false")
    return bool(value)


def _json_type(value: Any) -> str:
    """Return the JSON name of a value's type."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false"}
    return "missing" if value is None else names.get(type(value), "a number")
