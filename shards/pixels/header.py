"""What an image file is, by its first bytes: format and size, checked against the limits.

The format is told by the leading bytes, never by a name. No pixel is decoded.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import IO

import simplejpeg
from PIL import Image

from vchat.shards.pixels.levels import has_deep_levels
from vchat.shards.pixels.limits import PictureError, check_source_bytes, check_source_size

JPEG_START = b"\xff\xd8\xff"

_MAGIC = (
    (JPEG_START, "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
)
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, KeyError)
_BROKEN_TOO = (struct.error, zlib.error, OverflowError, AttributeError, RuntimeError)
DAMAGE = (*_BROKEN, *_BROKEN_TOO)
"""What Pillow raises on damaged bytes, depending on format and offset."""

# Sizes are checked here, against limits of our own.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_HEAD_BYTES = 64 * 2**10
_SHORT_HEAD_BYTES = 2 * 2**10
"""A JPEG without thumbnail and colour profile states its size within its first bytes, this many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHeader:
    """What an image's first bytes say."""

    format: str
    size: tuple[int, int]
    """Width and height in pixels, as stored (before any EXIF rotation)."""

    num_bytes: int

    is_rescaled: bool = False
    """Whether its values have more than 8 bits and are scaled when it is decoded, see `levels`."""


def sniff_format(head: bytes) -> str | None:
    """Return the image format that the leading bytes (at least 12) announce, or None."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    return next((name for magic, name in _MAGIC if head.startswith(magic)), None)


def read_header(file: IO[bytes], *, num_bytes: int, name: str) -> ImageHeader:
    """Read the header of an image in an open file and check the limits of a source.

    Args:
        num_bytes: size of the whole file.
        name: what errors call the image.

    Raises:
        PictureError: `huge_image`, `tiny_image`, or `undecodable_image` for an unknown or broken
            type.
    """
    check_source_bytes(num_bytes, name=name)
    head = file.read(_SHORT_HEAD_BYTES)
    is_jpeg = head.startswith(JPEG_START)
    size = _jpeg_size(head) or _jpeg_size(head + file.read(_HEAD_BYTES)) if is_jpeg else None
    if size is not None:
        check_source_size(size, name=name)
        return ImageHeader(format="JPEG", size=size, num_bytes=num_bytes)
    file.seek(0)
    with open_image(file, name=name) as image:
        assert image.format is not None
        return ImageHeader(
            format=image.format,
            size=image.size,
            num_bytes=num_bytes,
            is_rescaled=has_deep_levels(image),
        )


def open_image(file: IO[bytes], *, name: str) -> Image.Image:
    """Open a source image without decoding it and check its declared size.

    Raises:
        PictureError: as `read_header`.
    """
    found = sniff_format(file.read(16))
    if found is None:
        raise PictureError("undecodable_image", f"{name}: not an image of a known format")
    file.seek(0)
    try:
        image = Image.open(file, formats=[found])
    except Image.DecompressionBombError as err:
        raise PictureError("huge_image", f"{name}: {err}") from err
    except DAMAGE as err:
        raise PictureError("undecodable_image", f"{name}: {found} header is damaged") from err
    check_source_size(image.size, name=name)
    return image


def _jpeg_size(head: bytes) -> tuple[int, int] | None:
    """Return width and height by the first bytes of a JPEG, or None if they do not say."""
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(head)
    except ValueError:
        return None
    return width, height
