"""A user's picture as pixels for the model: upright, on white, then as the shards' images.

The images of a shard set were turned upright and flattened when it was built. A picture shown in a
chat comes as it is, so the same is done here before the one decoder of the shards reads it.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vchat.shards.pixels.decode import (
    FORMATS,
    check_limits,
    decode_image,
    decode_rgb_by_pillow,
    decode_tiles_into,
    resize,
)
from vchat.shards.pixels.grid import ImageGrid, Tiling, size_to_store

ORIENTATION = 0x0112
"""The EXIF tag that says how a camera was held; 1 is upright."""


def decode_picture(data: bytes, *, side: int) -> Tensor:
    """Decode a JPEG, PNG or WebP into uint8[3, side, side].

    Raises:
        ValueError: not such an image, damaged, or larger than what the shards' decoder takes.
    """
    data, _ = upright_bytes(data)
    return torch.from_numpy(decode_image(data, shorter_side=side, crop=side))


def decode_picture_tiles(data: bytes, *, tiling: Tiling, stored_side: int | None) -> Tensor:
    """Decode a picture into uint8[inputs, 3, side, side]: itself, or a small view and its tiles.

    Args:
        stored_side: to which shorter side the shards' images were made smaller, if they were: a
            larger picture is first made as small, so that it is cut as they are.

    Raises:
        ValueError: as `picture`.
    """
    data, full = upright_bytes(data)
    size = full if stored_side is None else size_to_store(full, shorter_side=stored_side)
    if size != full:
        data = _png_bytes(Image.fromarray(resize(decode_rgb_by_pillow(data), size=size)))
    (inputs,) = ImageGrid(positions_per_input=1, tiling=tiling).num_inputs(np.array([size]))
    pixels = np.empty((inputs, tiling.side, tiling.side, 3), np.uint8)
    decode_tiles_into(pixels, data, size=size, tiling=tiling)
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2))


def count_inputs(data: bytes, *, tiling: Tiling, stored_side: int | None) -> int:
    """Return how many inputs `cut_picture` makes of a picture.

    Raises:
        ValueError: as `picture`.
    """
    _, full = upright_bytes(data)
    size = full if stored_side is None else size_to_store(full, shorter_side=stored_side)
    return int(ImageGrid(positions_per_input=1, tiling=tiling).num_inputs(np.array([size]))[0])


def upright_bytes(data: bytes) -> tuple[bytes, tuple[int, int]]:
    """Return a picture's bytes as the shards' decoder takes them, upright and opaque, and its size.

    Raises:
        ValueError: as `picture`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        check_limits(image.size)
        if not _is_plain(image):
            upright = _on_white(ImageOps.exif_transpose(image))
            return _png_bytes(upright), upright.size
    except (
        OSError,
        SyntaxError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as err:
        raise ValueError(f"no readable {'/'.join(FORMATS)} image in {len(data)} bytes") from err
    return data, image.size


def _is_plain(image: Image.Image) -> bool:
    """Whether nothing has to be done before the shards' decoder; reads the header only."""
    upright = image.getexif().get(ORIENTATION, 1) == 1
    return upright and not image.has_transparency_data


def _on_white(image: Image.Image) -> Image.Image:
    """Return the image as RGB, its transparent parts white."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")


def _png_bytes(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=0)
    return file.getvalue()
