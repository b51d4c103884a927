"""The cutting of images into tiles, as an argument of plans and models: no arithmetic, no arrays.

What it means for an image, `positions.py` says.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """How images larger than the tower's square are cut."""

    max_tiles: int
    """The most tiles of an image, the small view of the whole not counted."""

    side: int
    """Of the tower's square, in pixels."""

    def __post_init__(self) -> None:
        if self.max_tiles < 2 or self.side < 1:
            raise ValueError(f"tiling wants at least 2 tiles of 1 pixel, got {self}")
