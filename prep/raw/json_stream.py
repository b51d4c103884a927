"""Read annotation files of any size, one value at a time; errors name the byte of the damage.

Bytes that are not UTF-8 become `DAMAGED`, a code point that no text may hold. So one bad text does
not end the file: `sources.texts` rejects the entry that holds it.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import re
from collections.abc import Iterator
from typing import IO, Any

import ijson

from vchat.prep.raw.data_path import DataPath

DAMAGED = "\ufdd0"
"""A Unicode noncharacter that replaces each byte that is not UTF-8."""

MAX_LINE_BYTES = 64 * 2**20
"""Size limit of one line of a JSONL file; one line is held in memory."""

_UNDECODED = re.compile("[\udc80-\udcff]")


class Utf8File:
    """Reads a binary file as valid UTF-8, without its byte order mark."""

    def __init__(self, file: IO[bytes]):
        """Read from `file`, which the caller closes."""
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="surrogateescape")

    def read(self, size: int) -> bytes:
        """Return about `size` bytes; empty only at the end of the file."""
        while size:
            chunk = self._file.read(size)
            text = self._decoder.decode(chunk, final=not chunk)
            if text or not chunk:
                return _encode(text)
        return b""


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _UNDECODED.sub(DAMAGED, text).encode()


def items(path: DataPath, prefix: str = "item") -> Iterator[Any]:
    """Yield the elements of a JSON array: the whole file by default, else the array at `prefix`.

    Raises:
        ValueError: If the file is not valid, complete JSON; names the file and the byte.
    """
    with _parsing(path) as file:
        yield from ijson.items(file, prefix, use_float=True)


def members(path: DataPath, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield `(name, value)` of each member of a JSON object, repeated names included.

    Raises:
        ValueError: If the file is not valid, complete JSON; names the file and the byte.
    """
    with _parsing(path) as file:
        yield from ijson.kvitems(file, prefix, use_float=True)


@contextlib.contextmanager
def _parsing(path: DataPath) -> Iterator[Utf8File]:
    with path.open("rb") as file:
        try:
            yield Utf8File(file)
        except ijson.JSONError as err:
            raise ValueError(_describe_damage(path, file.tell(), str(err))) from err


def _describe_damage(path: DataPath, offset: int, message: str) -> str:
    if "premature EOF" in message:
        return f"{path}: the JSON ends in mid-value at byte {offset}: the file is truncated"
    return f"{path}: not valid JSON in the 64 KiB before byte {offset}: {message.splitlines()[0]}"


def lines(path: DataPath) -> Iterator[tuple[int, Any]]:
    """Yield `(line number from 1, value)` of a JSONL file; blank lines are skipped.

    Raises:
        ValueError: If a line is not JSON or longer than `MAX_LINE_BYTES`; names the file and byte.
    """
    offset = 0
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise ValueError(f"{path}:{number}: the line is longer than {MAX_LINE_BYTES} bytes")
            if line.strip():
                yield number, _line_value(path, number, line=line, offset=offset)
            offset += len(line)


def _line_value(path: DataPath, number: int, *, line: bytes, offset: int) -> Any:
    text = _UNDECODED.sub(DAMAGED, line.decode("utf-8-sig", errors="surrogateescape"))
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as err:
        raise ValueError(f"{path}:{number}: not valid JSON (line at byte {offset}): {err}") from err


def first_character(path: DataPath) -> str:
    """Return the first character that is not white space: `[` of an array, `{` of an object."""
    with path.open("rb") as file:
        return file.read(4096).decode("utf-8-sig", errors="replace").lstrip()[:1]
