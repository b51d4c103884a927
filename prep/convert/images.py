"""The form in which a shard stores an image: made smaller and encoded as the recipe says.

In: the bytes of a file of unknown type. Out: upright, opaque RGB, its shorter side at most the
wanted length, encoded again. Equal bytes in give equal bytes out, on any machine that has the same
versions of the libraries (`library_versions`). `bench/prep.py` compares simplejpeg with Pillow.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

import numpy as np
import simplejpeg
from PIL import Image, features
from PIL import __version__ as pillow_version

from vchat.prep.raw.rejected import reject_bad_pictures
from vchat.shards.format.sample import StoredImage
from vchat.shards.pixels.limits import MIN_SIDE
from vchat.shards.pixels.resize import Pixels
from vchat.shards.pixels.upright import decode_to_store

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


def encode_for_shard(data: bytes, policy: ImagePolicy, *, key: str, name: str) -> StoredImage:
    """Return an image as it is stored.

    Args:
        data: The bytes of its file.
        policy: How images are stored.
        key: Canonical key of the picture.
        name: What errors call the image.

    Raises:
        Rejected: `huge_image`, `tiny_image` or `undecodable_image`, as `decode_to_store`.
    """
    with reject_bad_pictures():
        picture = decode_to_store(data, shorter_side=policy.size, name=name)
    height, width = picture.rgb.shape[:2]
    if policy.format == "keep" and picture.is_unchanged and picture.format in _EXTENSIONS:
        encoded, extension = data, _EXTENSIONS[picture.format]
    else:
        encoded, extension = _encode(picture.rgb, policy)
    return StoredImage(
        key=key,
        data=encoded,
        extension=extension,
        size=(width, height),
        original_size=picture.original_size,
    )


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
