"""Fill one shard: samples in, a tar file and its index rows out.

The tar is written by webdataset, with fixed times and owners, so equal samples give equal bytes.
The index says where every member's bytes lie, so a reader parses no tar header.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
from vchat.shards.codec import Sample, members
from vchat.shards.files import written_whole
from vchat.shards.index_rows import ROW_SCHEMA, index_row, locate, padded
from webdataset.writer import TarWriter


def write_shard(path: Path, samples: Iterable[Sample], *, first_number: int) -> pa.Table:
    """Write one shard whole and return its index rows (`ROW_SCHEMA`), in tar order.

    `path` appears only when every sample is written. Memory: one sample.

    Args:
        path: The tar file; replaced if it exists.
        samples: In the order they are stored.
        first_number: Number of the first sample within its split; stems count up from it.
    """
    with written_whole(path) as file:
        rows = _write_samples(file, samples, first_number)
    return pa.Table.from_pylist(rows, schema=ROW_SCHEMA)


def _write_samples(
    file: IO[bytes], samples: Iterable[Sample], first_number: int
) -> list[dict[str, Any]]:
    """Write the tar into an open file; returns index rows as dictionaries."""
    rows = []
    with TarWriter(file, encoder=False, mtime=0, user="vchat", group="vchat", mode=0o444) as tar:
        for number, sample in enumerate(samples, start=first_number):
            stem = f"{number:09d}"
            found = members(sample)
            located = locate(found, start=tar.tarstream.offset)
            tar.write({"__key__": stem} | dict(found))
            end = located[-1]["offset"] + padded(located[-1]["size"])
            assert tar.tarstream.offset == end, f"{stem}: the tar layout is not the one indexed"
            rows.append(index_row(sample, stem=stem, located=located))
    return rows
