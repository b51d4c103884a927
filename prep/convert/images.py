"""One image's bytes: what it is by its header, and the form in which a shard stores it.

In: the bytes of a file of unknown type. Out: upright, opaque RGB, its shorter side at most the
wanted length, encoded again. The type is told by the leading bytes, never by a name, and limits are
checked on the header before anything is decoded. All functions are pure: equal bytes in, equal
bytes out, on any machine that has the same versions of the libraries (`library_versions`).

JPEG is decoded and encoded by simplejpeg, to the same pixels as by Pillow, which reads everything
else; torch resizes, within one grey level of Pillow's bicubic filter and in integers, so that a CPU
without its fast instructions gives equal bytes. `bench/prep.py` has the comparison.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from importlib.metadata import version
from typing import IO, Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps, features
from PIL import __version__ as pillow_version

from vchat.prep.raw.rejected import Rejected
from vchat.shards.pixels.grid import size_to_store

Pixels = NDArray[np.uint8]

MAX_BYTES = 100 * 2**20
MAX_SIDE = 30_000
MAX_PIXELS = 80_000_000
MIN_SIDE = 2

_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
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
"""What Pillow raises on damaged bytes, depending on format and place."""

_ORIENTATION = 0x0112
"""EXIF tag that says how a picture is turned; 1 is upright."""

_TURNED = (b"Exif\0\0", b"tiff:Orientation")
"""What stands in a JPEG that may say how it is turned."""

_PLAIN_COLORS = ("YCbCr", "Gray", "RGB")
_HEAD_BYTES = 64 * 2**10
_SHORT_HEAD_BYTES = 2 * 2**10
"""Of a JPEG without a thumbnail and colour profile these hold the size."""

_EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePolicy:
    """How images are stored."""

    size: int = 224
    """Wanted length of the shorter side in pixels; images are never enlarged."""

    format: Literal["jpeg", "webp", "png", "keep"] = "jpeg"
    """`keep` stores the source's own bytes where they are upright RGB of the right size already in
    a format that shards hold, and JPEG otherwise."""

    quality: int = 90
    """Of JPEG and WebP, 1 to 100."""

    def __post_init__(self) -> None:
        if self.size < MIN_SIDE:
            raise ValueError(f"image size {self.size}: want at least {MIN_SIDE} pixels")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"image quality {self.quality}: want 1 to 100")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHeader:
    """What an image's first bytes say."""

    format: str
    size: tuple[int, int]
    """Width and height in pixels, as stored (before any EXIF rotation)."""

    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedImage:
    """An image as a shard stores it."""

    data: bytes
    extension: str
    size: tuple[int, int]
    original_size: tuple[int, int]
    """Width and height of the source, upright, in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _UprightPicture:
    """A decoded image."""

    format: str
    rgb: Pixels
    """uint8[H, W, 3], upright and opaque."""

    untouched: bool
    """Whether these are the pixels as the file has them."""


def sniff_format(head: bytes) -> str | None:
    """Return the image format that the leading bytes (at least 12) announce, or None."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    return next((name for magic, name in _MAGIC if head.startswith(magic)), None)


def read_header(file: IO[bytes], *, num_bytes: int, name: str) -> ImageHeader:
    """Read the header of an image in an open file and check the limits; pixels stay undecoded.

    Raises:
        Rejected: `huge_image`, `tiny_image`, or `undecodable_image` for an unknown or broken type.
    """
    if num_bytes > MAX_BYTES:
        raise Rejected("huge_image", f"{name}: {num_bytes} bytes, more than {MAX_BYTES}")
    head = file.read(_SHORT_HEAD_BYTES)
    is_jpeg = head.startswith(_MAGIC[0][0])
    size = _jpeg_size(head) or _jpeg_size(head + file.read(_HEAD_BYTES)) if is_jpeg else None
    if size is not None:
        check_size(size, name=name)
        return ImageHeader(format="JPEG", size=size, num_bytes=num_bytes)
    file.seek(0)
    with _open_image(file, name=name) as image:
        assert image.format is not None
        return ImageHeader(format=image.format, size=image.size, num_bytes=num_bytes)


def _jpeg_size(head: bytes) -> tuple[int, int] | None:
    """Return width and height by the first bytes of a JPEG, or None if they do not say."""
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(head)
    except ValueError:
        return None
    return width, height


def _open_image(file: IO[bytes], *, name: str) -> Image.Image:
    """Open an image without decoding it and check its declared size."""
    found = sniff_format(file.read(16))
    if found is None:
        raise Rejected("undecodable_image", f"{name}: not an image of a known format")
    file.seek(0)
    try:
        image = Image.open(file, formats=[found])
    except Image.DecompressionBombError as err:
        raise Rejected("huge_image", f"{name}: {err}") from err
    except DAMAGE as err:
        raise Rejected("undecodable_image", f"{name}: {found} header is damaged") from err
    check_size(image.size, name=name)
    return image


def check_size(size: tuple[int, int], *, name: str) -> None:
    """Check a declared width and height against the limits.

    Raises:
        Rejected: `tiny_image` or `huge_image`.
    """
    width, height = size
    if min(size) < MIN_SIDE:
        raise Rejected("tiny_image", f"{name}: {width} x {height} pixels")
    if max(size) > MAX_SIDE or width * height > MAX_PIXELS:
        raise Rejected("huge_image", f"{name}: {width} x {height} pixels")


def encode_for_shard(data: bytes, policy: ImagePolicy, *, name: str) -> EncodedImage:
    """Return an image as it is stored.

    Args:
        name: what errors call the image.

    Raises:
        Rejected: as `read_header`, and `undecodable_image` if the pixels are damaged.
    """
    upright = _plain_jpeg(data, name=name) or _decode_upright(data, name=name)
    height, width = upright.rgb.shape[:2]
    original_size = (width, height)
    target = size_to_store(original_size, shorter_side=policy.size)
    unchanged = upright.untouched and target == original_size
    if policy.format == "keep" and unchanged and upright.format in _EXTENSIONS:
        extension = _EXTENSIONS[upright.format]
        return EncodedImage(
            data=data, extension=extension, size=target, original_size=original_size
        )
    pixels = upright.rgb if target == original_size else _resize(upright.rgb, target)
    encoded, extension = _encode(pixels, policy)
    return EncodedImage(data=encoded, extension=extension, size=target, original_size=original_size)


def _plain_jpeg(data: bytes, *, name: str) -> _UprightPicture | None:
    """Decode a JPEG that is upright and in a common colour space; None leaves it to Pillow.

    Pillow alone also decides about damage: where this decoder so much as warns, it gives up.
    """
    if not data.startswith(_MAGIC[0][0]) or _may_be_turned(data):
        return None
    try:
        height, width, color, _ = simplejpeg.decode_jpeg_header(data)
        check_size((width, height), name=name)
        if color not in _PLAIN_COLORS:
            return None
        rgb = simplejpeg.decode_jpeg(data)
    except ValueError:
        return None
    return _UprightPicture(format="JPEG", rgb=rgb, untouched=color != "Gray")


def _may_be_turned(data: bytes) -> bool:
    """Tell whether a mark that may say how a JPEG is turned stands before its first scan."""
    scan = _first_scan(data)
    return any(data.find(mark, 0, scan) >= 0 for mark in _TURNED)


def _first_scan(data: bytes) -> int:
    """Return where the pixels of a JPEG begin; its end if that cannot be told."""
    place = 2
    while data[place : place + 1] == b"\xff":
        if data[place + 1 : place + 2] == b"\xda":
            return place
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
    return len(data)


def _decode_upright(data: bytes, *, name: str) -> _UprightPicture:
    """Decode the first frame of an image of any known kind."""
    with _open_image(io.BytesIO(data), name=name) as image:
        try:
            image.load()
            rotated = image.getexif().get(_ORIENTATION, 1) != 1
            rgb = to_opaque_rgb(ImageOps.exif_transpose(image) if rotated else image)
        except DAMAGE as err:
            problem = f"{name}: {image.format} data is damaged: {type(err).__name__}"
            raise Rejected("undecodable_image", problem) from err
        return _UprightPicture(
            format=str(image.format), rgb=np.asarray(rgb), untouched=rgb is image
        )


def _resize(rgb: Pixels, size: tuple[int, int]) -> Pixels:
    from vchat.shards.pixels.decode import (
        resize,
    )  # imports torch: 480 MB that few builds can do without

    return resize(rgb, size=size)


def to_opaque_rgb(image: Image.Image) -> Image.Image:
    """Return an image of any mode as RGB: transparency onto white, 16 bits scaled to 8."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Pixels:
    """Scale 16-bit grey values to 8 bits; float values are taken as 0 to 255."""
    values = np.asarray(image, dtype=np.float64)
    if image.mode != "F":
        values = values / 257
    return np.clip(np.rint(np.nan_to_num(values)), 0, 255).astype(np.uint8)


def _encode(rgb: Pixels, policy: ImagePolicy) -> tuple[bytes, str]:
    if policy.format in ("png", "webp"):
        file = io.BytesIO()
        Image.fromarray(rgb).save(file, policy.format.upper(), quality=policy.quality)
        return file.getvalue(), policy.format
    pixels = np.ascontiguousarray(rgb)
    return simplejpeg.encode_jpeg(pixels, quality=policy.quality, colorsubsampling="420"), "jpg"


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that shape an encoded image's bytes."""
    names = ("libjpeg_turbo", "jpg", "zlib", "webp", "libtiff")
    found = {name: features.version(name) for name in names}
    others = {"pillow": pillow_version} | {name: version(name) for name in ("simplejpeg", "torch")}
    return others | {name: str(v) for name, v in found.items() if v}
