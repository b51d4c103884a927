"""A user's picture as pixels for the model, equal to those of the same picture in a shard.

A build turns pictures upright, flattens them onto white and makes them smaller. A picture shown in
a chat or an evaluation comes as it is, so the same code does the same to it here, and what the
loader does to a stored image follows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vchat.shards.pixels.decode import cut_into, fit_into
from vchat.shards.pixels.grid import ImageGrid, Tiling
from vchat.shards.pixels.resize import Pixels
from vchat.shards.pixels.upright import check_size_to_store, decode_to_store, read_upright_size


def decode_picture(data: bytes, *, side: int, stored_side: int | None = None) -> Tensor:
    """Decode a picture of any format that a build takes into uint8[3, side, side].

    Args:
        stored_side: to which shorter side the shards' images were made smaller, if that is known: a
            larger picture is first made as small, as they were.

    Raises:
        ValueError: not a picture, damaged, or larger than what a build takes.
    """
    pixels = np.empty((side, side, 3), np.uint8)
    fit_into(pixels, _decode(data, stored_side), shorter_side=side)
    return torch.from_numpy(pixels.transpose(2, 0, 1))


def decode_picture_tiles(data: bytes, *, tiling: Tiling, stored_side: int | None = None) -> Tensor:
    """Decode a picture into uint8[inputs, 3, side, side]: itself, or a small view and its tiles.

    Args:
        stored_side: as for `decode_picture`; so that the picture is cut as the shards' images are.

    Raises:
        ValueError: as `decode_picture`.
    """
    rgb = _decode(data, stored_side)
    num_inputs = _count_inputs((rgb.shape[1], rgb.shape[0]), tiling)
    pixels = np.empty((num_inputs, tiling.side, tiling.side, 3), np.uint8)
    cut_into(pixels, rgb, tiling=tiling)
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2))


def count_inputs(data: bytes, *, tiling: Tiling, stored_side: int | None = None) -> int:
    """Return how many inputs `decode_picture_tiles` makes of a picture; reads its header if it can.

    Raises:
        ValueError: as `decode_picture`.
    """
    name = _name(data)
    size = read_upright_size(data, name=name)
    return _count_inputs(check_size_to_store(size, shorter_side=stored_side, name=name), tiling)


def _count_inputs(size: tuple[int, int], tiling: Tiling) -> int:
    return int(ImageGrid(positions_per_input=1, tiling=tiling).num_inputs(np.array([size]))[0])


def _decode(data: bytes, stored_side: int | None) -> Pixels:
    return decode_to_store(data, shorter_side=stored_side, name=_name(data)).rgb


def _name(data: bytes) -> str:
    return f"picture of {len(data)} bytes"
