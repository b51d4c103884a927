"""Pictures as base64 text inside one JSON object of many GB: `{"id": "<base64>", ...}`.

One streaming pass finds the byte span of every value; a picture is then read by its offset. The
object is never parsed: base64 holds no quotes, so the pass looks for quotes and checks what stands
between them. Memory: one block, whatever the size of the file.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from vchat.base.json_text import decode_json
from vchat.prep.raw.data_path import DataPath
from vchat.prep.raw.rejected import Rejected

BLOCK_BYTES = 4 * 2**20
_AFTER_NAME = re.compile(rb"\s*:\s*")
_BETWEEN = re.compile(rb"\s*,\s*")
_END = re.compile(rb"\s*}\s*")
_ESCAPES = ((b"\\/", b"/"), (b"\\n", b""), (b"\\r", b""), (b"\n", b""), (b"\r", b""))


@dataclass(frozen=True, slots=True)
class ByteSpan:
    """The bytes of one value in the file, without its quotes."""

    offset: int
    size: int


def value_spans(path: DataPath) -> Iterator[tuple[str, ByteSpan]]:
    """Yield `(name, span)` of every value of a flat JSON object of texts, in file order.

    Raises:
        ValueError: If the file is anything else, or truncated; names the byte.
    """
    with path.open("rb", buffering=0) as file:
        quotes = _quotes(file)
        end = 0
        for opening in quotes:
            _check_between(file, path, end, opening, _BETWEEN if end else re.compile(rb"\s*{\s*"))
            closing = _next_quote(quotes, path)
            first = _next_quote(quotes, path)
            _check_between(file, path, closing + 1, first, _AFTER_NAME)
            last = _next_quote(quotes, path)
            name = _decode_name(path, opening, _read_between(file, opening, closing + 1))
            yield name, ByteSpan(first + 1, last - first - 1)
            end = last + 1
        size = file.seek(0, 2)
        if not end or not _END.fullmatch(_read_between(file, end, size)):
            raise ValueError(f"{path}: the JSON object is not closed at byte {size}: truncated?")


def _decode_name(path: DataPath, offset: int, text: bytes) -> str:
    """Return a name; what is not Unicode becomes `DAMAGED`, so that no id equals it."""
    try:
        name: str = decode_json(text)
    except ValueError as err:
        raise ValueError(f"{path}: not valid JSON at byte {offset}: {err}") from err
    return name


def _quotes(file: IO[bytes]) -> Iterator[int]:
    """Yield the offset of every quote that is not escaped."""
    start, before = 0, b""
    while True:
        file.seek(start)
        block = file.read(BLOCK_BYTES)
        if not block:
            return
        i = block.find(b'"')
        while i >= 0:
            previous = block[i - 1 : i] if i else before
            if previous != b"\\":
                yield start + i
            i = block.find(b'"', i + 1)
        before = block[-1:]
        start += len(block)


def _next_quote(quotes: Iterator[int], path: DataPath) -> int:
    found = next(quotes, None)
    if found is None:
        with path.open("rb") as file:
            size = file.seek(0, 2)
        raise ValueError(
            f"{path}: the JSON ends in mid-value at byte {size}: the file is truncated"
        )
    return found


def _read_between(file: IO[bytes], start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(end - start)


def _check_between(
    file: IO[bytes], path: DataPath, start: int, end: int, pattern: re.Pattern[bytes]
) -> None:
    found = _read_between(file, start, min(end, start + 4096))
    if not pattern.fullmatch(found):
        raise ValueError(
            f"{path}: not an object of base64 texts: {found[:40]!r} at byte {start} stands where"
            " only the name of a text may follow"
        )


def decode_value(text: bytes, *, name: str) -> bytes:
    """Decode a base64 text of either alphabet, line breaks allowed.

    Raises:
        Rejected: `undecodable_image` if it holds any other character.
    """
    text = _to_plain_base64(text)
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as err:
        raise Rejected("undecodable_image", f"{name}: not base64: {err}") from err


def decode_head(text: bytes) -> bytes:
    """Decode the beginning of a base64 text; return no bytes if it is not base64."""
    text = _to_plain_base64(text.rstrip(b"\\"))
    try:
        return base64.b64decode(text[: len(text) // 4 * 4], validate=True)
    except binascii.Error:
        return b""


def _to_plain_base64(text: bytes) -> bytes:
    """Rewrite to the standard alphabet, without escapes, line breaks and padding."""
    for escape, plain in _ESCAPES:
        text = text.replace(escape, plain)
    if text.startswith(b"data:"):
        text = text.partition(b",")[2]
    return text.translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
