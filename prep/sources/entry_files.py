"""Files of entries in any packaging, told by content: a JSON array, JSON Lines or Parquet.

In: a file. Out: its entries as dictionaries, numbered; a picture that a Parquet row holds comes as
a `Cell`, which says where to read it. `unique_keys` is for files whose ids repeat.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
import xxhash

from vchat.prep.raw.data_path import DataPath, for_arrow
from vchat.prep.raw.json_stream import first_character, items, lines
from vchat.prep.raw.parquet_cells import has_pictures, is_parquet
from vchat.prep.raw.rejected import Rejected

PARQUET_BATCH_ENTRIES = 256
"""Rows of a Parquet file that are held in memory at a time."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A picture in the row of a Parquet file that tells about it."""

    member: str
    """Row and column, as `parquet_cells.read_cell` wants them."""

    path: str | None
    """The name that the picture once had, if the file says it."""


def read_raw_entries(file: DataPath) -> Iterator[tuple[int, Any]]:
    """Yield `(number from 1, row)` of a JSON array, a JSONL or a Parquet file."""
    if is_parquet(file):
        yield from enumerate(_parquet_entries(file), start=1)
    elif first_character(file) == "[":
        yield from enumerate(items(file), start=1)
    else:
        yield from lines(file)


def _parquet_entries(file: DataPath) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(for_arrow(file)) as parquet:
        holds_pictures = has_pictures(parquet.schema_arrow, "image")
        columns = [
            "image.path" if name == "image" and holds_pictures else name
            for name in parquet.schema_arrow.names
        ]
        batches = parquet.iter_batches(batch_size=PARQUET_BATCH_ENTRIES, columns=columns)
        for number, row in enumerate(row for batch in batches for row in batch.to_pylist()):
            if holds_pictures and row["image"] is not None:
                row["image"] = Cell(member=f"{number}/image", path=row["image"]["path"])
            yield row


def unique_keys() -> Callable[[str, str], str]:
    """Return a function that numbers repeated keys and rejects repeated content.

    It holds 16 bytes of each row's content, and each key.
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
