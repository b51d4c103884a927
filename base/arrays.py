"""Integer arithmetic on arrays that every package needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def offsets_from_counts(counts: Iterable[int] | NDArray[np.integer]) -> NDArray[np.int64]:
    """Return int64[N + 1]: where each of N groups of these sizes begins, and where the last ends.

    `counts` of 2, 0, 3 gives 0, 2, 2, 5: group i is `values[offsets[i] : offsets[i + 1]]`.
    """
    sizes = np.asarray(counts if isinstance(counts, np.ndarray) else list(counts))
    offsets = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:], dtype=np.int64)
    return offsets


def segment_sums(values: NDArray[Any], offsets: NDArray[np.int64]) -> NDArray[Any]:
    """Return the sum of each of N segments of `values`; int64 for integers.

    Args:
        values: All segments, one after the other.
        offsets: int64[N + 1], as `offsets_from_counts` returns them.
    """
    totals = np.zeros(len(values) + 1, np.float64 if values.dtype.kind == "f" else np.int64)
    np.cumsum(values, out=totals[1:])
    sums: NDArray[Any] = np.diff(totals[offsets])
    return sums
