"""The offset index of a base64 JSON, kept on disk: the pass over many GB is made once.

In: the file and a folder of work files. Out: `(name, place)` of every value, and in the folder one
small Parquet file with them. It is named by what the input is: path, size, time of change and ends
(in object storage, the ETag), so a changed input is read again. A pass that is killed leaves none.
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
"""Raised whenever the pass finds something else in equal files."""

VALUES_PER_GROUP = 2**16
"""Held in memory while writing or reading."""

_SCHEMA = pa.schema([("name", pa.string()), ("offset", pa.int64()), ("size", pa.int64())])


def load_value_spans(path: DataPath, folder: Path) -> Iterator[tuple[str, ByteSpan]]:
    """Yield what `base64_json.values` yields, from the index in `folder`, which is made if missing.

    Raises:
        ValueError: as `values`.
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
            rows = [(name, place.offset, place.size) for name, place in group]
            columns = [list(column) for column in zip(*rows, strict=True)]
            table.write_table(pa.table(columns, schema=_SCHEMA))
