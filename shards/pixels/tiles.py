"""Into how many tiles an image is cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from vchat.shards.pixels.grid import Tiling


def count_inputs(stored_sizes: NDArray[np.integer], *, tiling: Tiling | None) -> NDArray[np.int64]:
    """Return int64[N]: how many inputs of the tower each image is; one each without tiling."""
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
    """Return all (columns, rows) of at most `max_tiles`, fewest tiles first, then columns."""
    grids = [
        (columns, rows)
        for columns in range(1, max_tiles + 1)
        for rows in range(1, max_tiles // columns + 1)
    ]
    return sorted(grids, key=lambda grid: (grid[0] * grid[1], grid[0]))
