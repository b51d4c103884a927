"""Estimate how many bytes a record takes in a shard, from staged columns alone.

Only where shards are cut depends on it; a wrong estimate gives shards of another size, nothing
else. The constants are rounded averages of photographs and of instruction texts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vchat.base.arrays import offsets_from_counts, segment_sums
from vchat.prep.convert.images import ImagePolicy

BYTES_PER_PIXEL = {"jpeg": 0.32, "keep": 0.32, "webp": 0.2, "png": 1.6}
"""Of photographs at quality 90, shorter side 224."""

GROWTH = 1.5
"""About how many times as many bytes per pixel a smaller picture of the same scene takes."""

MEMBER_BYTES = 768
"""One member of a tar file: its header, and half a block of padding."""

SAMPLE_BYTES = 3 * MEMBER_BYTES + 600
TEXT_FACTOR = 2.4
"""Text is stored as rounds, as 4-byte ids of about 4 characters, and as a mask."""


def estimate_bytes(batch: dict[str, list[Any]], policy: ImagePolicy) -> NDArray[np.int64]:
    """Return int64[N]: estimated bytes of each record of a batch of plan columns."""
    texts = np.array(batch["text_bytes"], dtype=np.float64) * TEXT_FACTOR
    counts = np.array([len(keys) for keys in batch["image_keys"]], dtype=np.int64)
    sides = np.array([side for sizes in batch["image_sizes"] for side in sizes], dtype=np.float64)
    sides = sides.reshape(-1, 2)
    pixels = sides.prod(axis=1)
    shrink = np.minimum(1.0, policy.size / np.maximum(1.0, sides.min(axis=1, initial=np.inf)))
    shrunk = pixels * shrink**2
    offsets = offsets_from_counts(counts)
    source_pixels = segment_sums(pixels, offsets)
    source_bytes = np.array(batch["image_bytes"], dtype=np.float64)
    own_rate = GROWTH * source_bytes / np.maximum(1.0, source_pixels)
    rate = np.minimum(BYTES_PER_PIXEL[policy.format], own_rate)
    images = segment_sums(shrunk, offsets) * rate + counts * MEMBER_BYTES
    total: NDArray[np.float64] = texts + images + SAMPLE_BYTES
    return total.astype(np.int64)
