"""Image bytes to pixels, equal to what the Hugging Face CLIP image processor makes of them.

Out: uint8 pixels, resized so that the shorter side is right (bicubic) and cropped at the centre;
rescaling and normalising belong to the model. Against the Pillow variant of transformers' CLIP
processor, pixels are equal where no resize is needed, as in shards made for the same tower, and
differ by at most 1 of 255 levels where one is.

In memory the colors of a pixel lie together (channels last), as decoders leave them: an image that
needs neither resize nor crop is decoded in place, others are moved in whole lines. JPEG is decoded
by simplejpeg and resized by torch: both release the interpreter lock, so threads decode side by
side. Everything else is decoded by Pillow.
"""

from __future__ import annotations

import io
import threading

import numpy as np
import simplejpeg
from PIL import Image

from vchat.shards.pixels.grid import Tiling
from vchat.shards.pixels.header import JPEG_START
from vchat.shards.pixels.limits import check_stored_size
from vchat.shards.pixels.resize import Pixels, resize, size_before_crop
from vchat.shards.pixels.tiles import tile_grids
from vchat.shards.pixels.upright import PLAIN_COLORS

FORMATS = ("JPEG", "PNG", "WEBP")
"""What shards hold."""


class Scratch(threading.local):
    """Memory of each thread for one image at a time, before it is cropped; never cleared."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def image(self, height: int, width: int) -> Pixels:
        """Return uint8[height, width, 3] with old contents, until the next call."""
        size = height * width * 3
        if len(self._memory) < size:
            self._memory = np.empty(size, np.uint8)
        return self._memory[:size].reshape(height, width, 3)

    def __reduce__(self) -> tuple[type[Scratch], tuple[()]]:
        return Scratch, ()


def decode_image(data: bytes | memoryview, *, shorter_side: int, crop: int) -> Pixels:
    """Return uint8[3, crop, crop], channels last in memory.

    Raises:
        ValueError: as `decode_into`.
    """
    pixels = np.empty((crop, crop, 3), np.uint8)
    decode_into(pixels, data, shorter_side=shorter_side)
    return pixels.transpose(2, 0, 1)


def decode_into(
    pixels: Pixels,
    data: bytes | memoryview,
    *,
    shorter_side: int,
    scratch: Scratch | None = None,
) -> None:
    """Fill uint8[crop, crop, 3] with the centre of an image.

    Format and size are checked on the header, before any pixel is decoded.

    Args:
        scratch: for an image of another shape than `pixels`; without, memory is taken for it.

    Raises:
        ValueError: not a JPEG, PNG or WebP, damaged, or too large.
    """
    fit_into(pixels, decode_rgb(data, out=pixels, scratch=scratch), shorter_side=shorter_side)


def fit_into(pixels: Pixels, rgb: Pixels, *, shorter_side: int) -> None:
    """Fill uint8[crop, crop, 3] with the centre of uint8[H, W, 3], made `shorter_side` first."""
    crop = pixels.shape[0]
    if crop > shorter_side:
        raise ValueError(f"crop {crop} is larger than the shorter side {shorter_side}")
    height, width = rgb.shape[:2]
    if min(height, width) != shorter_side:
        rgb = resize(rgb, size=size_before_crop((width, height), shorter_side=shorter_side))
        height, width = rgb.shape[:2]
    if rgb is not pixels:
        top, left = (height - crop) // 2, (width - crop) // 2
        np.copyto(pixels, rgb[top : top + crop, left : left + crop])


def decode_tiles_into(
    pixels: Pixels, data: bytes | memoryview, *, size: tuple[int, int], tiling: Tiling
) -> None:
    """Fill uint8[inputs, side, side, 3] with an image, see `cut_into`.

    Args:
        size: width and height that the positions were counted for.

    Raises:
        ValueError: as `decode_into`; or the image is of another size.
    """
    rgb = decode_rgb(data, out=pixels[0])
    if len(pixels) > 1 and rgb.shape[1::-1] != size:
        found, wanted = ("x".join(map(str, one)) for one in (rgb.shape[1::-1], size))
        raise ValueError(f"an image of {found} pixels, the index says {wanted}")
    cut_into(pixels, rgb, tiling=tiling)


def cut_into(pixels: Pixels, rgb: Pixels, *, tiling: Tiling) -> None:
    """Fill uint8[inputs, side, side, 3]: an image squeezed into a square, then its tiles by rows.

    The tiles are those of the image squeezed into their grid. Of an image that is not cut there is
    one input, as `fit_into` makes it.
    """
    side = tiling.side
    if len(pixels) == 1:
        fit_into(pixels[0], rgb, shorter_side=side)
        return
    columns, rows = tile_grids(np.array([rgb.shape[1::-1]]), tiling=tiling)[0].tolist()
    pixels[0] = resize(rgb, size=(side, side))
    grid = resize(rgb, size=(columns * side, rows * side))
    tiles = grid.reshape(rows, side, columns, side, 3).swapaxes(1, 2)
    pixels[1:] = tiles.reshape(rows * columns, side, side, 3)


def decode_rgb(data: bytes | memoryview, *, out: Pixels, scratch: Scratch | None = None) -> Pixels:
    """Return uint8[H, W, 3] at the size in which the image is stored: `out`, if it has that shape.

    Else it may lie in `scratch`.

    Raises:
        ValueError: as `decode_into`.
    """
    if data[:3] == JPEG_START:
        try:
            height, width, color, _ = simplejpeg.decode_jpeg_header(data)
            check_stored_size((width, height), name="image")
            if color in PLAIN_COLORS:
                if (height, width, 3) != out.shape:
                    out = (scratch or Scratch()).image(height, width)
                simplejpeg.decode_jpeg(data, colorspace="RGB", buffer=out)
                return out
        except ValueError as err:
            raise ValueError(f"undecodable image of {len(data)} bytes: {err}") from err
    return decode_rgb_by_pillow(data)


def decode_rgb_by_pillow(data: bytes | memoryview) -> Pixels:
    """Return uint8[H, W, 3] of a format or colour space that the fast decoder does not know."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        check_stored_size(image.size, name="image")
        return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as err:
        raise ValueError(f"undecodable image of {len(data)} bytes: {err}") from err
