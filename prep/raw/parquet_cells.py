"""Pictures in the cells of a Parquet file, read by row number.

A cell holds base64 text, bytes, `{"bytes": ..}` as image columns on the hub do, or a list of such
pictures. Reading one cell decodes its whole row group, so a process caches the last few groups:
cheap where records come in the order of the file, expensive in any other order.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vchat.base.arrays import offsets_from_counts
from vchat.base.json_text import DAMAGED
from vchat.prep.raw.base64_json import decode_value
from vchat.prep.raw.data_path import DataPath, for_arrow
from vchat.prep.raw.rejected import Rejected

PICTURE_COLUMNS = ("image", "base64")
ID_COLUMNS = ("id", "__index_level_0__", "index")
MAX_CACHED_GROUPS = 4
MAX_CACHED_BYTES = 256 * 2**20
"""Size of the cached groups above which the oldest are evicted before another is read."""

_DECODE_LOCK = threading.Lock()
"""Held while a row group is decoded, so that only one of several threads does it."""

_cached_groups: dict[tuple[DataPath, int, str], pa.ChunkedArray] = {}
"""Decoded groups by file, number and column, the most recently used last."""


def is_parquet(path: DataPath) -> bool:
    """Tell by its first bytes whether a file is Parquet."""
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


@contextlib.contextmanager
def open_parquet(path: DataPath, **options: Any) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file for a block; what Arrow raises in it becomes a `ValueError`.

    Args:
        path: The file.
        options: As for `pyarrow.parquet.ParquetFile`.

    Raises:
        ValueError: If the file is damaged or truncated, or of a kind that Arrow cannot read.
    """
    try:
        with pq.ParquetFile(for_arrow(path), **options) as parquet:
            yield parquet
    except (pa.ArrowException, UnicodeDecodeError, OSError) as err:
        if isinstance(err, OSError) and (err.errno is not None or type(err) is not OSError):
            raise  # of the disk or the network; Arrow gives its own a bare OSError
        reason = " ".join(str(err).split())[:200]
        raise ValueError(f"{path}: damaged Parquet file: {reason}") from err


def column_names(path: DataPath) -> list[str]:
    """Return the names of the columns of a Parquet file.

    Raises:
        ValueError: If the file is damaged or truncated; names it.
    """
    return list(read_schema(path).names)


def read_schema(path: DataPath) -> pa.Schema:
    """Return the schema of a Parquet file; raises as `open_parquet`."""
    with open_parquet(path) as parquet:
        return parquet.schema_arrow


def read_rows(
    path: DataPath, *, columns: Sequence[str], batch_rows: int = 2**16, **options: Any
) -> Iterator[tuple[int, Any]]:
    """Yield `(number from 0, row)` of a Parquet file; the `Rejected` of a row that is not Unicode.

    Args:
        path: The file.
        columns: Those that a row has.
        batch_rows: Rows held in memory at a time.
        options: As for `open_parquet`.

    Raises:
        ValueError: As `open_parquet`.
    """
    number = 0
    with open_parquet(path, **options) as parquet:
        for batch in parquet.iter_batches(batch_size=batch_rows, columns=list(columns)):
            for row in _batch_rows(batch):
                yield number, row
                number += 1


def _batch_rows(batch: pa.RecordBatch) -> Iterator[Any]:
    """Yield the rows of a batch; a text that is not UTF-8 costs its row alone."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for i in range(batch.num_rows):
            try:
                [row] = batch.slice(i, 1).to_pylist()
            except UnicodeDecodeError as err:
                yield Rejected("bad_text", f"a text of the row is not valid Unicode: {err.reason}")
            else:
                yield row


def picture_column(path: DataPath) -> str:
    """Return the name of the column of pictures, or an empty text if there is none."""
    names = column_names(path)
    return next((name for name in PICTURE_COLUMNS if name in names), "")


def has_pictures(schema: pa.Schema, column: str) -> bool:
    """Tell whether a column has the type of pictures on the hub, `{"bytes": .., "path": ..}`."""
    kind = schema.field(column).type if column in schema.names else None
    fields = {field.name for field in kind} if kind and pa.types.is_struct(kind) else set()
    return {"bytes", "path"} <= fields


def picture_ids(path: DataPath) -> Iterator[str]:
    """Yield the id of every row, in file order.

    Raises:
        ValueError: If no column holds ids.
    """
    names = column_names(path)
    column = next((name for name in ID_COLUMNS if name in names), None)
    if column is None:
        raise ValueError(f"{path}: no column of ids; known: {', '.join(ID_COLUMNS)}")
    for _, row in read_rows(path, columns=[column]):
        yield DAMAGED if isinstance(row, Rejected) else str(row[column])


def read_cell(path: DataPath, cell: str) -> bytes:
    """Return the picture of the cell `row/column`, or of item i of a list, `row/column/i`.

    Raises:
        Rejected: `undecodable_image` if the cell holds no picture.
    """
    row, _, rest = cell.partition("/")
    column, _, item = rest.partition("/")
    with _DECODE_LOCK:
        starts = _group_starts(path)
        group = int(np.searchsorted(starts, int(row), side="right")) - 1
        value = _group(path, group, column)[int(row) - int(starts[group])]
        value = (value[int(item)] if item else value).as_py()
    return _picture(value, name=f"{path.name}:{cell}")


def _picture(value: Any, *, name: str) -> bytes:
    if isinstance(value, dict):
        value = value.get("bytes")
    if isinstance(value, str):
        return decode_value(value.encode(), name=name)
    if isinstance(value, bytes):
        return value
    raise Rejected("undecodable_image", f"{name}: a cell of {type(value).__name__}")


@lru_cache(maxsize=64)
def _group_starts(path: DataPath) -> NDArray[np.int64]:
    with open_parquet(path) as parquet:
        metadata = parquet.metadata
    counts = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    return offsets_from_counts(counts)[:-1]


def _group(path: DataPath, number: int, column: str) -> pa.ChunkedArray:
    """Return a column of a row group, cached; evicts the least recently used groups."""
    key = (path, number, column)
    cells = _cached_groups.pop(key, None)
    if cells is None:
        while (
            len(_cached_groups) >= MAX_CACHED_GROUPS
            or sum(one.nbytes for one in _cached_groups.values()) > MAX_CACHED_BYTES
        ):
            del _cached_groups[next(iter(_cached_groups))]
        with open_parquet(path) as parquet:
            cells = parquet.read_row_group(number, columns=[column])[column]
    _cached_groups[key] = cells
    return cells
