"""An index on disk of the values of a base64 JSON, so that many GB are scanned only once.

In: the file and a folder of work files. Out: `(name, span)` of every value, and in the folder one
small Parquet file that holds them. The name of that file digests the path, size, time of change
and both ends of the input (in object storage, its ETag), so a changed input is scanned again. A
scan that is killed leaves no index.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from vchat.base.files import write_atomically
from vchat.prep.raw.base64_json import ByteSpan, value_spans
from vchat.prep.raw.data_path import DataPath, version_of

INDEX_VERSION = 1
"""Increased whenever the scan returns something else for equal files."""

VALUES_PER_GROUP = 2**16
"""Values held in memory while the index is written or read."""

_SCHEMA = pa.schema([("name", pa.string()), ("offset", pa.int64()), ("size", pa.int64())])


def load_value_spans(path: DataPath, folder: Path) -> Iterator[tuple[str, ByteSpan]]:
    """Yield what `value_spans` yields, from the index in `folder`, which is written if missing.

    Raises:
        ValueError: As `value_spans`.
    """
    index = folder / f"offsets-{_digest(path)}.parquet"
    if not index.exists():
        _write(index, value_spans(path))
    with pq.ParquetFile(index) as parquet:
        for batch in parquet.iter_batches(batch_size=VALUES_PER_GROUP):
            names, offsets, sizes = (column.to_pylist() for column in batch.columns)
            for name, offset, size in zip(names, offsets, sizes, strict=True):
                yield name, ByteSpan(offset, size)


def _digest(path: DataPath) -> str:
    described = f"{INDEX_VERSION} {path.absolute()} {version_of(path)}"
    return xxhash.xxh3_128_hexdigest(described.encode())


def _write(index: Path, spans: Iterable[tuple[str, ByteSpan]]) -> None:
    spans = iter(spans)
    with (
        write_atomically(index) as file,
        pq.ParquetWriter(file, _SCHEMA, compression="zstd") as table,
    ):
        while group := list(islice(spans, VALUES_PER_GROUP)):
            rows = [(name, span.offset, span.size) for name, span in group]
            columns = [list(column) for column in zip(*rows, strict=True)]
            table.write_table(pa.table(columns, schema=_SCHEMA))
