"""Staged records: what a conversion writes, and what everything after it reads.

One Parquet file per source, one row per record in annotation order, with the columns that a plan
needs beside the rounds. Any Arrow tool reads it. For random access by number a build maps
an uncompressed copy into memory (`RecordFile`), which costs no resident memory of its own.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vchat.base.arrays import offsets_from_counts
from vchat.base.files import write_atomically
from vchat.shards.format.record import ImageRef, Record, Round

ROWS_PER_GROUP = 2048
"""Records held in memory while writing."""

_IMAGE = pa.struct(
    [
        ("key", pa.string()),
        ("file", pa.string()),
        ("member", pa.string()),
        ("offset", pa.int64()),
        ("size_bytes", pa.int64()),
        ("digest", pa.string()),
    ]
)
_IMAGE_FIELDS = tuple(field.name for field in _IMAGE)
_ROUND = pa.struct(
    [
        ("images", pa.list_(_IMAGE)),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("places", pa.list_(pa.int32())),
        ("supervised", pa.bool_()),
    ]
)
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("source", pa.string()),
        ("file", pa.string()),
        ("record_id", pa.string()),
        ("licence", pa.string()),
        ("marks", pa.list_(pa.string())),
        ("system", pa.string()),
        ("num_rounds", pa.int32()),
        ("text_bytes", pa.int64()),
        ("image_keys", pa.list_(pa.string())),
        ("image_digests", pa.list_(pa.uint64())),
        ("image_sizes", pa.list_(pa.int32())),
        ("image_bytes", pa.int64()),
        ("rounds", pa.list_(_ROUND)),
    ]
)
"""`image_digests` are the first 64 bits of each image's digest, 0 where it is unknown;
`image_sizes` is w0, h0, w1, h1 ... by the headers; `image_bytes` sums the sizes of the files."""

_RECORD_COLUMNS = ["key", "source", "file", "record_id", "licence", "marks", "system", "rounds"]
PLAN_COLUMNS = (
    *("key", "system", "num_rounds", "text_bytes"),
    *("image_keys", "image_digests", "image_sizes", "image_bytes"),
)


def row_from_record(
    record: Record, *, sizes: Sequence[tuple[int, int]], image_bytes: int
) -> dict[str, Any]:
    """Return one record as a row of `SCHEMA`; `sizes` are those of `record.images`, in order."""
    texts = [text for round_ in record.rounds for text in (round_.question, round_.answer)]
    texts.append(record.system or "")
    return {
        "key": record.key,
        "source": record.source,
        "file": record.file,
        "record_id": record.record_id,
        "licence": record.licence,
        "marks": list(record.marks),
        "system": record.system,
        "num_rounds": len(record.rounds),
        "text_bytes": sum(len(text.encode()) for text in texts),
        "image_keys": [image.key for image in record.images],
        "image_digests": [int(image.digest[:16] or "0", 16) for image in record.images],
        "image_sizes": [side for size in sizes for side in size],
        "image_bytes": image_bytes,
        "rounds": [_round_row(round_) for round_ in record.rounds],
    }


def _round_row(round_: Round) -> dict[str, Any]:
    return {
        "images": [{name: getattr(one, name) for name in _IMAGE_FIELDS} for one in round_.images],
        "question": round_.question,
        "answer": round_.answer,
        "places": list(round_.places),
        "supervised": round_.supervised,
    }


def record_from_row(row: dict[str, Any]) -> Record:
    """Return the record that `row_from_record` was given, from its `_RECORD_COLUMNS`."""
    rounds = tuple(
        Round(
            images=tuple(ImageRef(**image) for image in one["images"]),
            question=one["question"],
            answer=one["answer"],
            places=tuple(one["places"]),
            supervised=one["supervised"],
        )
        for one in row["rounds"]
    )
    return Record(**row | {"rounds": rounds, "marks": tuple(row["marks"])})


def write_staged(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows as one Parquet file, whole; return their number.

    Memory: `ROWS_PER_GROUP` rows.
    """
    count = 0
    rows = iter(rows)
    with (
        write_atomically(path) as file,
        pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer,
    ):
        while group := list(islice(rows, ROWS_PER_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=SCHEMA))
            count += len(group)
    return count


def read_plan_columns(
    path: Path, *, columns: Sequence[str] = PLAN_COLUMNS
) -> Iterator[dict[str, list[Any]]]:
    """Yield the columns a plan needs, or some of them, a group of rows at a time."""
    with pq.ParquetFile(path) as parquet:
        for batch in parquet.iter_batches(batch_size=ROWS_PER_GROUP, columns=list(columns)):
            yield batch.to_pydict()


def read_rows(
    path: Path, numbers: Sequence[int], *, columns: Sequence[str]
) -> list[dict[str, Any]]:
    """Return some columns of a few rows, numbered from 0 in file order; reads only their groups."""
    found = []
    with pq.ParquetFile(path) as parquet:
        sizes = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
        starts = [0, *accumulate(sizes)]
        for number in numbers:
            group = bisect.bisect_right(starts, number) - 1
            table = parquet.read_row_group(group, columns=list(columns))
            found += table.slice(number - starts[group], 1).to_pylist()
    return found


class RecordFile:
    """Records of one staged file, by number."""

    def __init__(self, path: Path):
        """Map `path`, as made by `write_record_file`, into memory."""
        self._map = pa.memory_map(str(path))
        reader = pa.ipc.open_file(self._map)
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self._batches = [batch.select(_RECORD_COLUMNS) for batch in batches]
        self._starts = offsets_from_counts(batch.num_rows for batch in batches)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._batches = []
        self._map.close()

    def records(self, numbers: Sequence[int]) -> list[Record]:
        """Return the records of these numbers, from 0 in file order; many at a time cost less."""
        in_file = np.array(numbers, dtype=np.int64)
        batch_of = np.searchsorted(self._starts, in_file, side="right") - 1
        found: dict[int, Record] = {}
        for batch in np.unique(batch_of).tolist():
            (asked,) = np.nonzero(batch_of == batch)
            rows = self._batches[batch].take(pa.array(in_file[asked] - self._starts[batch]))
            found |= zip(asked.tolist(), map(record_from_row, rows.to_pylist()), strict=True)
        return [found[i] for i in range(len(numbers))]


def write_record_file(staged: Path, path: Path) -> None:
    """Copy a staged Parquet file into the uncompressed form that `RecordFile` maps."""
    with (
        pq.ParquetFile(staged) as parquet,
        write_atomically(path) as file,
        pa.ipc.new_file(file, parquet.schema_arrow) as writer,
    ):
        for batch in parquet.iter_batches(batch_size=ROWS_PER_GROUP):
            writer.write_batch(batch)
