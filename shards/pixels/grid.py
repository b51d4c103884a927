"""How many positions an image takes in a sequence: the one function all sides use.

The planner, the loader, the chat processor and the model agree because they all ask here. An image
is one input of the tower, or, with tiling, several: a small view of the whole and its tiles. All
positions of an image stand in its one slot.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vchat.shards.pixels.tiling import Tiling


def num_positions(
    stored_sizes: NDArray[np.integer], *, per_image: int, tiling: Tiling | None = None
) -> NDArray[np.int64]:
    """Return int64[N]: how often the slot id of each image is repeated in a sequence.

    Args:
        stored_sizes: int[N, 2], width and height of each image as stored.
        per_image: of one input of the tower: 1 + (image side / patch side)^2 for a CLIP tower.
        tiling: None if every image is one input, whatever its size.
    """
    if per_image < 1:
        raise ValueError(f"an image takes at least 1 position, got per_image = {per_image}")
    return per_image * num_inputs(stored_sizes, tiling=tiling)


def num_inputs(stored_sizes: NDArray[np.integer], *, tiling: Tiling | None) -> NDArray[np.int64]:
    """Return int64[N]: how many inputs of the tower each image is; a cut one has its view too."""
    if tiling is None:
        return np.ones(len(stored_sizes), np.int64)
    tiles = tile_grids(stored_sizes, tiling=tiling).prod(axis=1)
    return np.where(tiles == 1, 1, 1 + tiles)


def tile_grids(stored_sizes: NDArray[np.integer], *, tiling: Tiling) -> NDArray[np.int64]:
    """Return int64[N, 2]: into how many columns and rows of tiles each image is cut.

    A side gets at most as many tiles as it is long in tiles, rounded. Of the grids that `max_tiles`
    allows, the one into which the image fits with the least shrinking wins, then the one of fewer
    tiles, then of fewer columns. Whole numbers only, so the same on every machine.
    """
    sizes = stored_sizes.astype(np.int64)
    most = np.maximum(1, (2 * sizes + tiling.side) // (2 * tiling.side))
    best = np.ones((len(sizes), 2), np.int64)
    scale = np.zeros(len(sizes), np.int64)
    for grid in possible_grids(tiling.max_tiles):
        fitting = scale_into(sizes, box=np.array(grid) * tiling.side)
        better = (most >= grid).all(axis=1) & (fitting > scale)
        best[better], scale[better] = grid, fitting[better]
    return best


def scale_into(sizes: NDArray[np.int64], *, box: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return int64[N]: by how much each image must shrink to fit, times its pixels; at most 1."""
    width, height = sizes.T
    scale: NDArray[np.int64] = np.minimum(box[0] * height, box[1] * width)
    np.minimum(scale, width * height, out=scale)
    return scale


def possible_grids(max_tiles: int) -> list[tuple[int, int]]:
    """Return all (columns, rows) of at most so many tiles, fewest tiles first, then columns."""
    grids = [
        (columns, rows)
        for columns in range(1, max_tiles + 1)
        for rows in range(1, max_tiles // columns + 1)
    ]
    return sorted(grids, key=lambda grid: (grid[0] * grid[1], grid[0]))


def size_to_store(size: tuple[int, int], *, shorter_side: int) -> tuple[int, int]:
    """Return width and height after resizing the shorter side, never enlarged, at least 1 pixel."""
    width, height = size
    short = min(size)
    if short <= shorter_side:
        return size
    return (
        max(1, (2 * width * shorter_side + short) // (2 * short)),
        max(1, (2 * height * shorter_side + short) // (2 * short)),
    )
