"""Files of entries in any packaging: a JSON array, JSON Lines or Parquet, told by content.

In: a file. Out: its entries, numbered; a picture that a Parquet entry holds comes as a `Cell`,
which says where to read it. `unique_keys` is for files whose ids repeat.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import xxhash

from vchat.prep.raw.data_path import DataPath
from vchat.prep.raw.json_stream import first_character, items, lines
from vchat.prep.raw.parquet_cells import has_pictures, is_parquet, read_rows, read_schema
from vchat.prep.raw.rejected import Rejected

PARQUET_BATCH_ENTRIES = 256
"""Entries of a Parquet file held in memory at a time."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A picture inside its entry, in a Parquet file."""

    member: str
    """Row and column, in the form that `parquet_cells.read_cell` takes."""

    path: str | None
    """The picture's file name before it was packed, if the file holds it."""


def read_raw_entries(file: DataPath) -> Iterator[tuple[int, Any]]:
    """Yield `(number from 1, entry)` of a JSON array, a JSONL or a Parquet file."""
    if is_parquet(file):
        yield from enumerate(_parquet_entries(file), start=1)
    elif first_character(file) == "[":
        yield from enumerate(items(file), start=1)
    else:
        yield from lines(file)


def _parquet_entries(file: DataPath) -> Iterator[Any]:
    schema = read_schema(file)
    holds_pictures = has_pictures(schema, "image")
    columns = [
        "image.path" if name == "image" and holds_pictures else name for name in schema.names
    ]
    for number, entry in read_rows(file, columns=columns, batch_rows=PARQUET_BATCH_ENTRIES):
        if holds_pictures and isinstance(entry, dict) and entry["image"] is not None:
            entry["image"] = Cell(member=f"{number}/image", path=entry["image"]["path"])
        yield entry


def unique_keys() -> Callable[[str, str], str]:
    """Return a function that numbers repeated keys and rejects repeated content.

    It holds each key and a digest of 16 bytes of each content.

    The function raises `Rejected` with `duplicate` for the content of an earlier entry.
    """
    seen: set[bytes] = set()
    uses: Counter[str] = Counter()

    def unique(key: str, content: str) -> str:
        digest = xxhash.xxh3_128_digest(content.encode())
        if digest in seen:
            raise Rejected("duplicate", f"{key} has the content of an earlier row")
        seen.add(digest)
        uses[key] += 1
        return key if uses[key] == 1 else f"{key}~{uses[key]}"

    return unique
