"""A user's picture as pixels for the model: upright, on white, then as the shards' images.

The images of a shard set were turned upright and flattened when it was built. A picture shown in a
chat comes as it is, so the same is done here before the one decoder of the shards reads it.
"""

from __future__ import annotations

import io
import warnings

import torch
from PIL import Image, ImageOps
from torch import Tensor
from vchat.shards.decode import FORMATS, check_header, decoded

ORIENTATION = 0x0112
"""The EXIF tag that says how a camera was held; 1 is upright."""


def picture(data: bytes, *, side: int) -> Tensor:
    """Decode a JPEG, PNG or WebP into uint8[3, side, side].

    Raises:
        ValueError: not such an image, damaged, or larger than what the shards' decoder takes.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        check_header(image.size)
        if not _is_plain(image):
            data = _png_bytes(_on_white(ImageOps.exif_transpose(image)))
    except (
        OSError,
        SyntaxError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as err:
        raise ValueError(f"no readable {'/'.join(FORMATS)} image in {len(data)} bytes") from err
    return torch.from_numpy(decoded(data, shorter_side=side, crop=side))


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
