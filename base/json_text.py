"""JSON from outside to values, bounded: the one decoder of entries, questions and requests.

In: the bytes of one whole JSON value. Out: the value. NaN, Infinity and integers of any usual
length are values, as Python and pandas write them. What is not Unicode, be it bytes that are not
UTF-8 or a lone half of a surrogate pair, becomes `DAMAGED`, a code point that no text may hold, so
that one bad text does not cost the rest, and no later code meets a text that cannot be encoded.
"""

from __future__ import annotations

import json
import re
from typing import Any

MAX_DEPTH = 100
"""Arrays and objects inside each other."""

MAX_VALUES = 2**18
"""Values inside one value; each takes some 100 bytes of memory, but as little as 2 in the file."""

MAX_INTEGER_DIGITS = 4300
"""Python's own limit, as reading takes the square of the time."""

DAMAGED = "\ufdd0"
"""A Unicode noncharacter that replaces whatever is not Unicode."""

STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
TO_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|' + STRING + rb"){0,999}+([\[\]{}]?)", re.DOTALL)
"""Goes towards the next bracket outside of texts; at its end, at the end of the data and before a
text without end it matches nothing. It takes 999 steps at most, as each needs memory."""

_STRING = re.compile(STRING, re.DOTALL)
_MAY_BE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_MAY_BE_SURROGATE_TEXT = re.compile(_MAY_BE_SURROGATE.pattern.decode())
_SURROGATE = re.compile("[\ud800-\udfff]")
_BOM = b"\xef\xbb\xbf"


def is_unicode(text: str) -> bool:
    """Tell whether a text is Unicode: no part of it was `DAMAGED` or is half a surrogate pair."""
    return DAMAGED not in text and _SURROGATE.search(text) is None


class JsonSyntaxError(ValueError):
    """Bytes that are not JSON."""

    def __init__(self, message: str, offset: int):
        """`offset` is that of the first wrong byte."""
        super().__init__(message)
        self.message = message
        self.offset = offset

    def __reduce__(self) -> tuple[type[JsonSyntaxError], tuple[str, int]]:
        return JsonSyntaxError, (self.message, self.offset)


class JsonLimitError(ValueError):
    """JSON beyond the limits, or ambiguous: nested too deep, too many values, a name twice."""


def decode_json(data: bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        JsonSyntaxError: If it is not JSON.
        JsonLimitError: If it is beyond the limits, or an object names a member twice.
    """
    data = data.removeprefix(_BOM)
    _check_bounds(data)
    text = _decode_text(data)
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as err:
        offset = len(text[: err.pos].encode())
        raise JsonSyntaxError(f"{err.msg}, found {text[err.pos : err.pos + 20]!r}", offset) from err
    except JsonLimitError:
        raise
    except ValueError as err:
        digits = f"an integer of more than {MAX_INTEGER_DIGITS} digits"
        raise JsonLimitError(digits) from err
    return _mark_surrogates(value) if _MAY_BE_SURROGATE.search(data) else value


def decode_plain(text: str, at: int) -> tuple[Any, int] | None:
    """Return the value that begins at a place of ASCII text, and where it ends: the fast way.

    None if it does not end before the text does, or only `decode_json` can tell what it is.
    """
    try:
        value, end = _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        return None
    is_plain = (
        end < len(text)
        and end - at <= MAX_VALUES
        and text.count("[", at, end) + text.count("{", at, end) <= MAX_DEPTH
        and not _MAY_BE_SURROGATE_TEXT.search(text, at, end)
    )
    return (value, end) if is_plain else None


def _decode_text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return _SURROGATE.sub(DAMAGED, data.decode(errors="surrogateescape"))


def _check_bounds(data: bytes) -> None:
    if len(data) > MAX_VALUES and _count_marks(data) > MAX_VALUES and _has_too_many_values(data):
        raise JsonLimitError(f"more than {MAX_VALUES} values")
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _depth(data) > MAX_DEPTH:
        raise JsonLimitError(f"nested deeper than {MAX_DEPTH} arrays and objects")


def _count_marks(data: bytes) -> int:
    return sum(data.count(mark) for mark in (b",", b"[", b"{"))


def _has_too_many_values(data: bytes) -> bool:
    """Tell it by the marks outside of texts, a part of the data at a time."""
    total = at = 0
    while total <= MAX_VALUES:
        match = TO_BRACKET.match(data, at)
        assert match is not None
        if match.end() == at:
            return False
        total += _count_marks(_STRING.sub(b"", data[at : match.end()]))
        at = match.end()
    return True


def _depth(data: bytes) -> int:
    """Return how deep brackets outside of texts are nested; beyond the limit it stops counting."""
    depth = deepest = at = 0
    while deepest <= MAX_DEPTH:
        match = TO_BRACKET.match(data, at)
        assert match is not None
        if match.end() == at:
            break
        if match[1]:
            depth += 1 if match[1] in b"[{" else -1
        deepest = max(deepest, depth)
        at = match.end()
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise JsonLimitError(f"an object with two members named {_SURROGATE.sub('', twice)[:40]!r}")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _mark_surrogates(value: Any) -> Any:
    """Return the value with every lone surrogate of its texts replaced; pairs are characters."""
    if isinstance(value, str):
        return _SURROGATE.sub(DAMAGED, value)
    if isinstance(value, list):
        return [_mark_surrogates(one) for one in value]
    if isinstance(value, dict):
        return {_mark_surrogates(name): _mark_surrogates(one) for name, one in value.items()}
    return value
