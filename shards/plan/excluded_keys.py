"""Read a list of sample keys that a plan leaves out: text lines, or a Parquet column `key`."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq


def read_keys(path: Path) -> tuple[str, ...]:
    """Return the keys of a list, sorted, each once.

    Raises:
        ValueError: a Parquet file has no column `key`.
        OSError: unreadable.
    """
    if path.suffix == ".parquet":
        columns = pq.read_schema(path).names
        if "key" not in columns:
            raise ValueError(f"{path} has columns {', '.join(columns)}, wanted one called key")
        keys = pq.read_table(path, columns=["key"])["key"].to_pylist()
    else:
        keys = path.read_text(encoding="utf-8").splitlines()
    return tuple(sorted({key for key in keys if key}))
