"""Read annotation files of any size, one value at a time; errors name the byte of the damage.

The elements of an array, the members of an object and the lines of a JSONL file are cut out as
bytes and decoded by one decoder, `base.json_text`, so equal entries have equal values in each
packaging. An entry beyond the limits of that decoder comes as the `Rejected` that says why, in its
place: `texts.require_object` raises it, and the file goes on. What is not JSON ends the file.
Memory: one entry.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO, Any

from vchat.base.json_text import (
    MAX_VALUES,
    STRING,
    TO_BRACKET,
    JsonLimitError,
    JsonSyntaxError,
    decode_json,
    decode_plain,
)
from vchat.prep.raw.data_path import DataPath
from vchat.prep.raw.rejected import Rejected

MAX_ENTRY_BYTES = 16 * 2**20
"""Size limit of one entry: an element, a member, or a line of JSONL. One is held in memory."""

BLOCK_BYTES = 256 * 2**10

_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(rb"[ \t\r\n]*+")
_TEXT = re.compile(STRING, re.DOTALL)
_SCALAR = re.compile(rb"[^ \t\r\n,:\"\[\]{}]*+")


class JsonCursor:
    """A place in a JSON file, and the bytes from there on that are in memory."""

    def __init__(self, file: IO[bytes], path: DataPath):
        """Start at the beginning of an open file; `path` is what errors call it."""
        self._file = file
        self._path = path
        self._data = file.read(BLOCK_BYTES)
        self._start = 0
        """Offset in the file of the first byte of `_data`."""

        self._at = len(_BOM) if self._data.startswith(_BOM) else 0
        self._ascii = _ascii_text(self._data)
        """`_data` as text if it is ASCII, where bytes are characters; else empty."""

    @property
    def offset(self) -> int:
        """The byte of the file at which it stands."""
        return self._start + self._at

    def peek(self) -> bytes:
        """Go over white space; return the next byte, or none at the end of the file."""
        while True:
            space = _SPACE.match(self._data, self._at)
            assert space is not None
            self._at = space.end()
            if self._at < len(self._data):
                return self._data[self._at : self._at + 1]
            if not self._read_more(self._at):
                return b""

    def take(self, wanted: bytes) -> bytes:
        """Go over the next byte, which must be one of `wanted`, and return it.

        Raises:
            ValueError: If it is another one, or the file ends.
        """
        found = self.peek()
        if not found:
            raise self.truncation()
        if found not in wanted:
            names = " or ".join(repr(chr(one)) for one in wanted)
            raise self.damage(f"found {found.decode(errors='replace')!r}, wanted {names}")
        self._at += 1
        return found

    def read_value(self) -> Any:
        """Return the next value, and go over it.

        Raises:
            JsonLimitError: If the value is beyond the limits of `decode_json`.
            ValueError: If it is not JSON or longer than `MAX_ENTRY_BYTES`, or the file ends.
        """
        self.peek()
        if (found := decode_plain(self._ascii, self._at)) is not None:
            value, self._at = found
            return value
        start = self.offset
        self._go_over_value(held_from=start)
        try:
            return decode_json(self._data[start - self._start : self._at])
        except JsonSyntaxError as err:
            raise self.damage(err.message, offset=start + err.offset) from err

    def skip_value(self) -> None:
        """Go over the next value, of any size, without holding it."""
        self.peek()
        self._go_over_value(held_from=None)

    def _go_over_value(self, *, held_from: int | None) -> None:
        first = self._data[self._at : self._at + 1]
        if first in (b"[", b"{"):
            depth = num_brackets = 0
            while depth or first:
                num_brackets += 1
                if held_from is not None and num_brackets > 2 * MAX_VALUES:
                    raise self._excess(held_from, f"has more than {MAX_VALUES} values")
                depth += 1 if self._next_bracket(held_from) in b"[{" else -1
                first = b""
            return
        pattern = _TEXT if first == b'"' else _SCALAR
        match = pattern.match(self._data, self._at)
        while match is None or (first != b'"' and match.end() == len(self._data)):
            has_more = self._read_more(self._at, held_from=held_from)
            match = pattern.match(self._data, self._at)
            if not has_more:
                break
        if match is None or not first:
            raise self.truncation()
        if match.end() == self._at:
            raise self.damage(f"found {first.decode(errors='replace')!r}, wanted a value")
        self._at = match.end()

    def _next_bracket(self, held_from: int | None) -> bytes:
        """Go behind the next bracket outside of texts, and return it."""
        while True:
            match = TO_BRACKET.match(self._data, self._at)
            assert match is not None
            has_moved = match.end() > self._at
            self._at = match.end()
            if match[1]:
                return match[1]
            if not has_moved and not self._read_more(self._at, held_from=held_from):
                raise self.truncation()

    def _read_more(self, at: int, *, held_from: int | None = None) -> bool:
        """Read another block, or as much as is held already; tell whether there was more.

        Bytes before `at` are dropped, unless they are held from an earlier byte of the file.
        """
        keep = at if held_from is None else held_from - self._start
        held = self._data[keep:]
        if len(held) > MAX_ENTRY_BYTES:
            raise self._excess(self._start + keep, f"is longer than {MAX_ENTRY_BYTES} bytes")
        more = self._file.read(max(BLOCK_BYTES, len(held)))
        self._data = held + more
        self._ascii = _ascii_text(self._data)
        self._start += keep
        self._at = at - keep
        return bool(more)

    def _excess(self, offset: int, message: str) -> ValueError:
        return ValueError(f"{self._path}: the value at byte {offset} {message}")

    def truncation(self) -> ValueError:
        """Return the error for a file that ends too early."""
        size = self._start + len(self._data)
        return ValueError(
            f"{self._path}: the JSON ends in mid-value at byte {size}: the file is truncated"
        )

    def damage(self, message: str, *, offset: int | None = None) -> ValueError:
        """Return the error for what is not JSON, here or at another byte of the file."""
        byte = self.offset if offset is None else offset
        return ValueError(f"{self._path}: not valid JSON at byte {byte}: {message}")


def _ascii_text(data: bytes) -> str:
    return data.decode("ascii") if data.isascii() else ""


def items(path: DataPath, prefix: str = "item") -> Iterator[Any]:
    """Yield the elements of a JSON array: the whole file by default, else the array at `prefix`.

    `prefix` is `item`, or `NAME.item` for the array under that name of the file's object.

    Raises:
        ValueError: If the file is not valid, complete JSON; names the file and the byte.
    """
    name, _, last = prefix.rpartition(".")
    assert last == "item", prefix
    with path.open("rb") as file:
        cursor = JsonCursor(file, path)
        for _ in _containers(cursor, name, opening=b"["):
            for start in _each_part(cursor, closing=b"]"):
                yield _read_entry(path, cursor, offset=start)


def members(path: DataPath, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield `(name, value)` of each member of a JSON object, repeated names included.

    Args:
        path: The file.
        prefix: The object's own name in the file's object; empty for the file's object.

    Raises:
        ValueError: If the file is not valid, complete JSON; names the file and the byte.
    """
    with path.open("rb") as file:
        cursor = JsonCursor(file, path)
        for _ in _containers(cursor, prefix, opening=b"{"):
            for name in _each_name(cursor):
                cursor.peek()
                yield name, _read_entry(path, cursor, offset=cursor.offset)


def _containers(cursor: JsonCursor, name: str, *, opening: bytes) -> Iterator[None]:
    """Go to each array or object that is read, for the caller to go over it; skip all else."""
    if not name and cursor.peek() == opening:
        yield
    elif name and cursor.peek() == b"{":
        for one in _each_name(cursor):
            if one == name and cursor.peek() == opening:
                yield
            else:
                cursor.skip_value()
    else:
        cursor.skip_value()
    if rest := cursor.peek():
        raise cursor.damage(f"found {rest.decode(errors='replace')!r}, wanted the end of the file")


def _each_part(cursor: JsonCursor, *, closing: bytes) -> Iterator[int]:
    """Go to each element or member, for the caller to go over it; yield its offset."""
    cursor.take(b"[{")
    if cursor.peek() == closing:
        cursor.take(closing)
        return
    while True:
        if not cursor.peek():
            raise cursor.truncation()
        yield cursor.offset
        if cursor.take(b"," + closing) == closing:
            return


def _each_name(cursor: JsonCursor) -> Iterator[str]:
    """Go to the value of each member of an object, for the caller to go over it; yield its name."""
    for _ in _each_part(cursor, closing=b"}"):
        if cursor.peek() != b'"':
            raise cursor.damage("wanted a name in quotes")
        name: str = cursor.read_value()
        cursor.take(b":")
        yield name


def _read_entry(path: DataPath, cursor: JsonCursor, *, offset: int) -> Any:
    """Return the value of the entry at an offset, or the `Rejected` of one beyond the limits."""
    try:
        return cursor.read_value()
    except JsonLimitError as err:
        return Rejected("bad_row", f"at byte {offset} of {path.name}: {err}")


def lines(path: DataPath) -> Iterator[tuple[int, Any]]:
    """Yield `(line number from 1, value)` of a JSONL file; blank lines are skipped.

    Raises:
        ValueError: If a line is not JSON or longer than `MAX_ENTRY_BYTES`; names the file and byte.
    """
    offset = 0
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_ENTRY_BYTES + 1):
            number += 1
            if len(line) > MAX_ENTRY_BYTES:
                raise ValueError(
                    f"{path}:{number}: the line is longer than {MAX_ENTRY_BYTES} bytes"
                )
            if line.strip():
                yield number, _line_value(path, number, line=line, offset=offset)
            offset += len(line)


def _line_value(path: DataPath, number: int, *, line: bytes, offset: int) -> Any:
    try:
        return decode_json(line)
    except JsonLimitError as err:
        return Rejected("bad_row", f"line {number} of {path.name}: {err}")
    except JsonSyntaxError as err:
        raise ValueError(f"{path}:{number}: not valid JSON (line at byte {offset}): {err}") from err


def first_character(path: DataPath) -> str:
    """Return the first character that is not white space: `[` of an array, `{` of an object."""
    with path.open("rb") as file:
        return file.read(4096).decode("utf-8-sig", errors="replace").lstrip()[:1]
