"""Index rows: what the index says of one sample, and where in a tar its members lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from vchat.shards.format.sample import Sample

BLOCK_BYTES = 512
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


def locate_members(members: Sequence[tuple[str, bytes]], *, start: int) -> list[dict[str, Any]]:
    """Return name, offset, size and checksum of members whose first header is at byte `start`."""
    located = []
    for name, data in members:
        start += BLOCK_BYTES
        located.append(
            {
                "name": name,
                "offset": start,
                "size": len(data),
                "xxh3": xxhash.xxh3_64_intdigest(data),
            }
        )
        start += pad_to_block(len(data))
    return located


def index_row(sample: Sample, *, stem: str, located: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the index row of one sample, a dictionary of `ROW_SCHEMA`."""
    images = sample.images
    return {
        "key": sample.key,
        "source": sample.source,
        "split": sample.split,
        "text_tokens": len(sample.ids) - len(images),
        "supervised_tokens": int(np.count_nonzero(sample.supervised)),
        "num_images": len(images),
        "num_records": len(sample.records),
        "num_rounds": len(sample.rounds),
        "image_sizes": [side for image in images for side in image.size],
        "image_original_sizes": [side for image in images for side in image.original_size],
        "image_keys": [image.key for image in images],
        "stem": stem,
        "members": located,
    }


def pad_to_block(size: int) -> int:
    """Round a size up to whole blocks."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES
