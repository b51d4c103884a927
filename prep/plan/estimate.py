"""About how many bytes a record will take in a shard, from staged columns alone.

Only the cutting into shards depends on it; a wrong estimate gives shards of another size, nothing
else. The constants are rounded averages of photographs and of instruction texts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vchat.prep.convert.images import ImagePolicy

BYTES_PER_PIXEL = {"jpeg": 0.32, "keep": 0.32, "webp": 0.2, "png": 1.6}
"""Of photographs at quality 90, shorter side 224."""

GROWTH = 1.5
"""A smaller picture of the same scene takes more bytes per pixel; about this much more."""

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
    source_pixels = _segment_sums(pixels, counts)
    source_bytes = np.array(batch["image_bytes"], dtype=np.float64)
    own_rate = GROWTH * source_bytes / np.maximum(1.0, source_pixels)
    rate = np.minimum(BYTES_PER_PIXEL[policy.format], own_rate)
    images = _segment_sums(shrunk, counts) * rate + counts * MEMBER_BYTES
    return (texts + images + SAMPLE_BYTES).astype(np.int64)


def _segment_sums(values: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the sum of each of N stretches of `values`, which have the given lengths."""
    totals = np.concatenate(([0.0], np.cumsum(values)))
    ends = np.cumsum(counts)
    found: NDArray[np.float64] = totals[ends] - totals[ends - counts]
    return found
