"""Any picture to upright, opaque RGB: the one way for a build, a chat and an evaluation.

In: the bytes of a file of unknown type. Out: what a shard stores of it, before it is encoded. Equal
bytes give equal pixels on any machine that has the same versions of the libraries. JPEG is decoded
by simplejpeg, to the same pixels as by Pillow, which decodes everything else.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from vchat.shards.pixels.header import DAMAGE, JPEG_START, open_image
from vchat.shards.pixels.levels import has_deep_levels, scale_to_eight_bits
from vchat.shards.pixels.limits import (
    PictureError,
    check_source_bytes,
    check_source_size,
    check_stored_size,
)
from vchat.shards.pixels.resize import Pixels, resize, size_to_store

PLAIN_COLORS = ("YCbCr", "Gray", "RGB")
"""Colour spaces of a JPEG that simplejpeg decodes."""

_ORIENTATION = 0x0112
"""EXIF tag that says how a picture is turned; 1 is upright."""

_TURNED = (b"Exif\0\0", b"tiff:Orientation")
"""What stands in a JPEG that may say how it is turned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UprightPicture:
    """A decoded picture."""

    format: str
    """Of the file."""

    rgb: Pixels
    """uint8[H, W, 3], upright and opaque."""

    is_unchanged: bool
    """Whether these are the pixels as the file has them."""

    is_rescaled: bool = False
    """Whether values of more than 8 bits were scaled, see `levels`."""

    original_size: tuple[int, int]
    """Width and height of the picture, upright, before it was made smaller."""


def decode_to_store(data: bytes, *, shorter_side: int | None, name: str) -> UprightPicture:
    """Return a picture as a shard stores it: upright, opaque, its shorter side made smaller.

    Args:
        shorter_side: in pixels; a smaller picture keeps its size. None is no limit.
        name: what errors call the picture.

    Raises:
        PictureError: `huge_image`, also where the stored size would be beyond what a shard may
            hold; `tiny_image`; `undecodable_image`.
    """
    check_source_bytes(len(data), name=name)
    picture = _decode_plain_jpeg(data, name=name) or _decode_by_pillow(data, name=name)
    size = picture.original_size
    stored = check_size_to_store(size, shorter_side=shorter_side, name=name)
    if stored == size:
        return picture
    return replace(picture, rgb=resize(picture.rgb, size=stored), is_unchanged=False)


def check_size_to_store(
    size: tuple[int, int], *, shorter_side: int | None, name: str
) -> tuple[int, int]:
    """Return width and height of a picture in a shard, or refuse what no reader would decode.

    Raises:
        PictureError: `huge_image`.
    """
    stored = size if shorter_side is None else size_to_store(size, shorter_side=shorter_side)
    check_stored_size(stored, name=f"{name}: stored as an image")
    return stored


def read_upright_size(data: bytes, *, name: str) -> tuple[int, int]:
    """Return width and height of a picture once it is upright; most formats are not decoded.

    Raises:
        PictureError: as `decode_to_store`, but for damage that shows when pixels are decoded.
    """
    check_source_bytes(len(data), name=name)
    with open_image(io.BytesIO(data), name=name) as image:
        if image.format == "JPEG" and not _may_be_turned(data):
            return image.size
        try:
            turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
        except DAMAGE as err:
            raise _damaged(image, err, name=name) from err
        width, height = image.size
        return (height, width) if turned else (width, height)


def to_opaque_rgb(image: Image.Image) -> Image.Image:
    """Return an image of 8 bits per value, of any mode, as RGB: transparency onto white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _decode_plain_jpeg(data: bytes, *, name: str) -> UprightPicture | None:
    """Decode a JPEG that is upright and in a common colour space; None leaves it to Pillow.

    Pillow alone also decides about damage: where this decoder so much as warns, it gives up.
    """
    if not data.startswith(JPEG_START) or _may_be_turned(data):
        return None
    try:
        height, width, color, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    check_source_size((width, height), name=name)
    if color not in PLAIN_COLORS:
        return None
    try:
        rgb = simplejpeg.decode_jpeg(data)
    except ValueError:
        return None
    return UprightPicture(
        format="JPEG", rgb=rgb, is_unchanged=color != "Gray", original_size=(width, height)
    )


def _may_be_turned(data: bytes) -> bool:
    """Tell whether a mark that may say how a JPEG is turned stands before its first scan."""
    scan = _find_first_scan(data)
    return any(data.find(mark, 0, scan) >= 0 for mark in _TURNED)


def _find_first_scan(data: bytes) -> int:
    """Return the offset of a JPEG's pixels; its end if that cannot be told."""
    offset = 2
    while data[offset : offset + 1] == b"\xff":
        if data[offset + 1 : offset + 2] == b"\xda":
            return offset
        offset += 2 + int.from_bytes(data[offset + 2 : offset + 4])
    return len(data)


def _decode_by_pillow(data: bytes, *, name: str) -> UprightPicture:
    """Decode the first frame of an image of any known kind."""
    with open_image(io.BytesIO(data), name=name) as image:
        is_rescaled = has_deep_levels(image)
        try:
            plain = scale_to_eight_bits(image, data, name=name) if is_rescaled else image
            plain.load()
            if (orientation := image.getexif().get(_ORIENTATION, 1)) != 1:
                plain = _turn_upright(plain, orientation)
            rgb = to_opaque_rgb(plain)
        except PictureError:
            raise
        except DAMAGE as err:
            raise _damaged(image, err, name=name) from err
        return UprightPicture(
            format=str(image.format),
            rgb=np.asarray(rgb),
            is_unchanged=rgb is image,
            is_rescaled=is_rescaled,
            original_size=rgb.size,
        )


def _turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    turned = image.copy()
    turned.info["exif"] = exif.tobytes()
    return ImageOps.exif_transpose(turned)


def _damaged(image: Image.Image, err: Exception, *, name: str) -> PictureError:
    problem = f"{name}: {image.format} data is damaged: {type(err).__name__}"
    return PictureError("undecodable_image", problem)
