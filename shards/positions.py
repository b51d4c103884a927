"""How many positions an image takes in a sequence: the one function all sides use.

The planner, the collator, the chat processor and the model agree because they all ask here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def num_positions(stored_sizes: NDArray[np.integer], *, per_image: int) -> NDArray[np.int64]:
    """Return int64[N]: how often the slot id of each image is repeated in a sequence.

    Every image takes `per_image` positions, whatever its size; the sizes are an argument because
    a tower with a free aspect ratio needs them.

    Args:
        stored_sizes: int[N, 2], width and height of each image as stored.
        per_image: 1 + (image side / patch side)^2 for a CLIP tower.
    """
    if per_image < 1:
        raise ValueError(f"an image takes at least 1 position, got per_image = {per_image}")
    return np.full(len(stored_sizes), per_image, dtype=np.int64)
