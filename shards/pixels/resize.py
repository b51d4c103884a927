"""Sizes of images that are made smaller, and the resizing itself.

torch resizes, within one grey level of Pillow's bicubic filter and in integers, so that a CPU
without its fast instructions gives equal bytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def size_to_store(size: tuple[int, int], *, shorter_side: int) -> tuple[int, int]:
    """Return width and height of an image in a shard: never enlarged, at least 1 pixel."""
    width, height = size
    short = min(size)
    if short <= shorter_side:
        return size
    return (
        max(1, (2 * width * shorter_side + short) // (2 * short)),
        max(1, (2 * height * shorter_side + short) // (2 * short)),
    )


def size_before_crop(size: tuple[int, int], *, shorter_side: int) -> tuple[int, int]:
    """Return (width, height) with the shorter side as asked and the longer one rounded down."""
    width, height = size
    if width <= height:
        return shorter_side, shorter_side * height // width
    return shorter_side * width // height, shorter_side


def resize(rgb: Pixels, *, size: tuple[int, int]) -> Pixels:
    """Return uint8[size[1], size[0], 3], bicubic with antialiasing."""
    import torch  # takes 480 MB, which few builds can do without, but headers can

    writable = torch.from_numpy(np.require(rgb, requirements="W"))
    # The new axis comes first, so that torch sees its channels-last layout: its fast path, and the
    # result is whole in memory.
    planes = writable[None].permute(0, 3, 1, 2)
    width, height = size
    smaller = torch.nn.functional.interpolate(
        planes, size=(height, width), mode="bicubic", antialias=True
    )
    pixels: Pixels = smaller[0].permute(1, 2, 0).numpy()
    return pixels
