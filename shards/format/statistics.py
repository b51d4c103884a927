"""Counts over index rows: what a manifest states and what `inspect` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vchat.base.arrays import offsets_from_counts

COUNTS = {
    "records": "num_records",
    "rounds": "num_rounds",
    "images": "num_images",
    "text_tokens": "text_tokens",
    "supervised_tokens": "supervised_tokens",
    "bytes": "bytes",
}
"""Statistic -> the index column it sums; `bytes` is computed from the members."""


def statistics(index: pa.Table, *, by: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return samples, records, rounds, images, tokens and bytes, per group of equal `by` columns.

    Groups are sorted; without `by` there is one. `text_tokens` excludes slots; `bytes` are those
    of the members, without the tar's headers and padding.
    """
    columns = {name: index[name].cast(pa.string()) for name in by}
    columns |= {name: index[name] for name in COUNTS.values() if name != "bytes"}
    columns["bytes"] = pa.array(sample_bytes(index))
    columns["samples"] = pa.array(np.ones(index.num_rows, dtype=np.int64))
    sums = {"samples": "samples", **COUNTS}
    totals = (
        pa.table(columns)
        .group_by(list(by))
        .aggregate([(column, "sum") for column in sums.values()])
        .sort_by([(name, "ascending") for name in by] or [("samples_sum", "ascending")])
    )
    return [
        {name: row[name] for name in by}
        | {name: row[f"{column}_sum"] or 0 for name, column in sums.items()}
        for row in totals.to_pylist()
    ]


def sample_bytes(index: pa.Table) -> NDArray[np.int64]:
    """Return int64[N]: the bytes of each sample's members together."""
    lists = index["members"].combine_chunks()
    sizes = lists.flatten().field("size").to_numpy().astype(np.int64)
    of_samples = offsets_from_counts(lists.value_lengths().to_numpy())
    return np.diff(offsets_from_counts(sizes)[of_samples])
