"""Image bytes to pixels, equal to what the Hugging Face CLIP image processor makes of them.

Out: uint8 pixels, resized so that the shorter side is right (bicubic, Pillow) and cropped at the
centre; rescaling and normalising belong to the model. Tolerance against the Pillow variant of
transformers' CLIP processor: none, every pixel is equal. An image that has the right size already,
as the shards are made to have, is not resized.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_SIDE = 16_384
MAX_PIXELS = 1 << 26


def decoded(data: bytes, *, shorter_side: int, crop: int) -> Pixels:
    """Return uint8[3, crop, crop].

    Format and size are checked on the header, before any pixel is decoded.

    Raises:
        ValueError: not a JPEG, PNG or WebP, damaged, or too large.
    """
    if crop > shorter_side:
        raise ValueError(f"crop {crop} is larger than the shorter side {shorter_side}")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        check_header(image.size)
        rgb = image.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as err:
        raise ValueError(f"undecodable image of {len(data)} bytes: {err}") from err
    size = resized_size(rgb.size, shorter_side=shorter_side)
    if size != rgb.size:
        rgb = rgb.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - crop) // 2, (size[1] - crop) // 2
    pixels = np.asarray(rgb)[top : top + crop, left : left + crop]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def check_header(size: tuple[int, int]) -> None:
    """Refuse an image whose header announces more than we decode.

    Raises:
        ValueError: a side or the number of pixels is over the limit.
    """
    width, height = size
    if max(size) > MAX_SIDE or width * height > MAX_PIXELS:
        raise ValueError(
            f"image of {width}x{height} pixels, at most {MAX_SIDE} a side and {MAX_PIXELS} in all"
        )


def resized_size(size: tuple[int, int], *, shorter_side: int) -> tuple[int, int]:
    """Return (width, height) with the shorter side as asked and the longer one rounded down."""
    width, height = size
    if width <= height:
        return shorter_side, shorter_side * height // width
    return shorter_side * width // height, shorter_side
