"""Fill one shard: samples in, a tar file and its index rows out.

The tar is written by webdataset, with fixed times and owners, so equal samples give equal bytes.
The index says where every member's bytes lie, so a reader parses no tar header.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import xxhash
from vchat.shards.codec import Sample, members
from vchat.shards.files import written_whole
from webdataset.writer import TarWriter

BLOCK = 512
"""A tar file is a sequence of blocks of this many bytes; a header is one block."""

_SIZES = pa.list_(pa.int32())
_MEMBER = pa.struct(
    [("name", pa.string()), ("offset", pa.int64()), ("size", pa.int64()), ("xxh3", pa.uint64())]
)
ROW_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("source", pa.dictionary(pa.int32(), pa.string())),
        ("split", pa.string()),
        ("text_tokens", pa.int32()),
        ("supervised_tokens", pa.int32()),
        ("num_images", pa.int32()),
        ("num_records", pa.int32()),
        ("num_rounds", pa.int32()),
        ("image_sizes", _SIZES),
        ("image_original_sizes", _SIZES),
        ("image_keys", pa.list_(pa.string())),
        ("stem", pa.string()),
        ("members", pa.list_(_MEMBER)),
    ]
)
"""Index columns of one sample, before the set is published and shards have numbers."""


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
            end = located[-1]["offset"] + _padded(located[-1]["size"])
            assert tar.tarstream.offset == end, f"{stem}: the tar layout is not the one indexed"
            rows.append(index_row(sample, stem=stem, located=located))
    return rows


def locate(found: Sequence[tuple[str, bytes]], *, start: int) -> list[dict[str, Any]]:
    """Return name, offset, size and checksum of members whose first header is at byte `start`."""
    located = []
    for name, data in found:
        start += BLOCK
        located.append(
            {
                "name": name,
                "offset": start,
                "size": len(data),
                "xxh3": xxhash.xxh3_64_intdigest(data),
            }
        )
        start += _padded(len(data))
    return located


def index_row(sample: Sample, *, stem: str, located: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the index row of one sample, a dictionary of `ROW_SCHEMA`."""
    images = sample.images
    return {
        "key": sample.key,
        "source": sample.source,
        "split": sample.split,
        "text_tokens": len(sample.ids) - len(images),
        "supervised_tokens": int(sample.supervised.sum()),
        "num_images": len(images),
        "num_records": len(sample.records),
        "num_rounds": len(sample.rounds),
        "image_sizes": [side for image in images for side in image.size],
        "image_original_sizes": [side for image in images for side in image.original_size],
        "image_keys": [image.key for image in images],
        "stem": stem,
        "members": located,
    }


def _padded(size: int) -> int:
    """Round a size up to whole blocks."""
    return -(-size // BLOCK) * BLOCK
