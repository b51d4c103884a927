"""How many positions an image takes in a sequence, in one value that all sides share.

The planner, the loader, the chat and the model agree because they all ask an `ImageGrid`. An image
is one input of the tower, or, with tiling, several: a small view of the whole and its tiles. All
positions of an image stand in its one slot.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """How images larger than the tower's square are cut."""

    max_tiles: int
    """The most tiles of an image, the small view of the whole not counted."""

    side: int
    """Side of the tower's square, in pixels."""

    def __post_init__(self) -> None:
        if self.max_tiles < 2 or self.side < 1:
            raise ValueError(f"tiling wants at least 2 tiles of 1 pixel, got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageGrid:
    """What decides how many positions an image takes."""

    positions_per_input: int
    """Of one input of the tower: 1 + (image side / patch side)^2 for a CLIP tower."""

    tiling: Tiling | None = None
    """None if every image is one input, whatever its size."""

    def __post_init__(self) -> None:
        if self.positions_per_input < 1:
            raise ValueError(
                "an image takes at least 1 position, got positions_per_input ="
                f" {self.positions_per_input}"
            )

    def num_positions(self, stored_sizes: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return int64[N]: how often the slot id of each image is repeated in a sequence.

        Args:
            stored_sizes: int[N, 2], width and height of each image as stored.
        """
        return self.positions_per_input * self.num_inputs(stored_sizes)

    def num_inputs(self, stored_sizes: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return int64[N]: how many inputs of the tower each image is.

        An image that is cut has one for its small view beside its tiles.
        """
        if self.tiling is None:
            return np.ones(len(stored_sizes), np.int64)
        tiles = tile_grids(stored_sizes, tiling=self.tiling).prod(axis=1)
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
