"""How many positions an image takes in a sequence, in one value that all sides share.

The planner, the loader, the chat and the model agree because they all ask an `ImageGrid`. An image
is one input of the tower, or, with tiling, several: a small view of the whole and its tiles. All
positions of an image stand in its one slot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
        from vchat.shards.pixels.tiles import count_inputs  # here: configs need no numpy

        return count_inputs(stored_sizes, tiling=self.tiling)
