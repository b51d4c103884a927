"""Pictures in the cells of a Parquet file, read by row number.

A cell holds base64 text, bytes, `{"bytes": ..}` as image columns on the hub do, or a list of such
pictures. Reading one cell decodes its whole row group, so a process caches the last few groups:
cheap where records come in the order of the file, expensive in any other order.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vchat.base.arrays import offsets_from_counts
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


def column_names(path: DataPath) -> list[str]:
    """Return the names of the columns of a Parquet file.

    Raises:
        ValueError: If the file is damaged or truncated; names it.
    """
    try:
        return list(pq.read_schema(for_arrow(path)).names)
    except pa.ArrowInvalid as err:
        raise ValueError(f"{path}: damaged Parquet file: {err}") from err


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
    with pq.ParquetFile(for_arrow(path)) as parquet:
        for batch in parquet.iter_batches(columns=[column]):
            yield from map(str, batch.column(0).to_pylist())


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
    metadata = pq.read_metadata(for_arrow(path))
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
        with pq.ParquetFile(for_arrow(path)) as parquet:
            cells = parquet.read_row_group(number, columns=[column])[column]
    _cached_groups[key] = cells
    return cells
