"""What is in a shard set: counts by source and split, and the samples that are asked for."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vchat.shards.format.index import statistics
from vchat.shards.format.shard_set import ShardSet
from vchat.shards.inspect.defects import missing_files


def overview(shards: ShardSet, *, split: str | None, source: str | None) -> dict[str, Any]:
    """Return what `inspect --json` prints: statistics per source and split, and integrity.

    Statistics are None where the index cannot be read; `defects` then says why.
    """
    defects = list(missing_files(shards))
    manifest = shards.manifest
    index_is_whole = not any(defect.file.startswith("index/") for defect in defects)
    rows = select_samples(shards, split=split, source=source) if index_is_whole else None
    return {
        "name": shards.name,
        "format_version": manifest["format_version"],
        "template": manifest["template"]["name"],
        "tokenizer": manifest["tokenizer"],
        "max_tokens": manifest.get("max_tokens"),
        "positions_per_image": manifest.get("positions_per_image"),
        "image": manifest.get("image"),
        "licences": manifest.get("licences"),
        "num_shards": len(manifest["shards"]),
        "shard_bytes": sum(shard["bytes"] for shard in manifest["shards"]),
        "groups": None if rows is None else statistics(rows, by=["source", "split"]),
        "totals": None if rows is None else totals(rows),
        "defects": [str(defect) for defect in defects],
    }


def totals(rows: pa.Table) -> dict[str, Any] | None:
    """Return the statistics of all rows together, None if there are none."""
    return statistics(rows)[0] if rows.num_rows else None


def select_samples(shards: ShardSet, *, split: str | None, source: str | None) -> pa.Table:
    """Return the index rows of a split and a source; None means all.

    Raises:
        ValueError: there is no such split or source; names those there are.
    """
    index = shards.index(split)
    if source is None:
        return index
    if source not in shards.manifest["sources"]:
        there = ", ".join(shards.manifest["sources"])
        raise ValueError(f"no source {source!r} in {shards.folder}; it has {there}")
    return index.filter(pc.equal(index["source"].cast(pa.string()), source))


def row_at(rows: pa.Table, number: int) -> dict[str, Any]:
    """Return one row as a dictionary.

    Raises:
        ValueError: there are not so many.
    """
    if not 0 <= number < rows.num_rows:
        raise ValueError(f"no sample {number}; there are {rows.num_rows}, numbered from 0")
    row: dict[str, Any] = rows.slice(number, 1).to_pylist()[0]
    return row
