"""Pictures of more than 8 bits per value, to 8 bits: the one place where levels are scaled.

16 bits are scaled by 65535, or by the picture's largest value where that is below 4096: sensors and
scanners of 10 or 12 bits write small numbers into 16. 32 bits and floating point have no agreed
scale, so the lowest value becomes 0 and the highest 255. Whoever stores such a picture marks it as
rescaled.
"""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vchat.shards.pixels.limits import PictureError
from vchat.shards.pixels.resize import Pixels

LARGEST_OF_16_BITS = 65_535
SMALL_VALUES = 4096
"""A 16-bit picture whose values are all below is scaled by the largest of them."""

_PHOTOMETRIC = 262
"""Tag of a TIFF; 0 is WhiteIsZero."""

_BAND_ROWS = 256
"""Rows that are scaled at a time, in floating point of 8 bytes."""

_COLOR = re.compile(r"(RGB|RGBA|RGBX|LA);16([LBN])")
"""How Pillow names 16-bit colours in a file; it keeps only the upper 8 bits of them."""

_OTHER_ORDER = {"B": "L", "L": "B", "N": "B"}
"""Order of the two bytes of a value -> the order in which Pillow keeps the lower byte instead."""

_NATIVE = {"F;32BF": "F;32F", "I;32BS": "I;32S", "I;16BS": "I;16S"}
"""What Pillow takes for the byte order of a compressed file -> what libtiff hands over."""


def has_deep_levels(image: Image.Image) -> bool:
    """Tell whether the values of an opened picture, not loaded yet, have more than 8 bits."""
    return image.mode == "F" or image.mode.startswith("I") or ";16" in _color_kind(image)


def scale_to_eight_bits(image: Image.Image, data: bytes, *, name: str) -> Image.Image:
    """Return a picture with deep levels as `L`, `LA`, `RGB` or `RGBA`.

    Args:
        image: As opened, not loaded yet.
        data: The bytes of its file.
        name: What errors call it.

    Raises:
        PictureError: `undecodable_image` for a kind that cannot be read in full, or if no value is
            a number.
    """
    transparent = image.info.get("transparency")
    if _is_inverted(image):
        raise PictureError("undecodable_image", f"{name}: 0 is white, in more than 8 bits")
    if kind := _color_kind(image):
        values = _color_values(image, data, kind=kind, name=name)
    else:
        values = _grey_values(image)
    has_alpha = values.shape[-1] in (2, 4)
    colors = values[..., :-1] if has_alpha else values
    scaled = _scale(colors, *_range(colors, name=name))
    if has_alpha:
        alpha = _scale(values[..., -1:], 0, LARGEST_OF_16_BITS)
        scaled = np.concatenate([scaled, alpha], axis=-1)
    elif transparent is not None:
        is_seen = (colors != transparent).any(axis=-1, keepdims=True)
        scaled = np.concatenate([scaled, is_seen.astype(np.uint8) * 255], axis=-1)
    return Image.fromarray(scaled[..., 0] if scaled.shape[-1] == 1 else scaled)


def _is_inverted(image: Image.Image) -> bool:
    """Tell whether a TIFF counts from white to black; Pillow turns only 8 bits around."""
    return image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0  # type: ignore[attr-defined]


def _color_kind(image: Image.Image) -> str:
    """Return how the file stores 16-bit colours; empty if it does not."""
    if image.format not in ("PNG", "TIFF") or image.mode in ("L", "F") or image.mode[0] == "I":
        return ""
    raw_mode = _raw_mode(image)
    return raw_mode if ";16" in raw_mode else ""


def _raw_mode(image: Image.Image) -> str:
    arguments = image.tile[0].args if image.tile else ""  # type: ignore[attr-defined]
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _load_as(image: Image.Image, raw_mode: str) -> NDArray[Any]:
    """Load a picture as if its file stored values in another way."""
    tiles = image.tile  # type: ignore[attr-defined]
    image.tile = [_replace_raw_mode(tile, raw_mode) for tile in tiles]  # type: ignore[attr-defined]
    return np.asarray(image)


def _replace_raw_mode(tile: Any, raw_mode: str) -> Any:
    others = tile.args[1:] if isinstance(tile.args, tuple) else None
    return tile._replace(args=raw_mode if others is None else (raw_mode, *others))


def _color_values(image: Image.Image, data: bytes, *, kind: str, name: str) -> NDArray[Any]:
    """Return uint16[H, W, C]: colours, with transparency last if C is 2 or 4."""
    match = _COLOR.fullmatch(kind)
    if match is None:
        raise PictureError("undecodable_image", f"{name}: colours stored as {kind}")
    channels, order = match[1], match[2]
    if channels == "LA":  # 4 bytes a pixel: two of grey, two of transparency
        pairs = _load_as(image, "RGBA").astype(np.uint16).reshape(*image.size[::-1], 2, 2)
        return pairs[..., 0] << 8 | pairs[..., 1]
    with Image.open(io.BytesIO(data), formats=[str(image.format)]) as again:
        low = _load_as(again, f"{channels};16{_OTHER_ORDER[order]}").astype(np.uint16)
    values = low | np.asarray(image).astype(np.uint16) << 8
    return values[..., :3] if channels == "RGBX" else values


def _grey_values(image: Image.Image) -> NDArray[Any]:
    """Return [H, W, 1] of integers or of floating point, as the file has them."""
    raw_mode = _raw_mode(image)
    is_compressed = bool(image.tile) and image.tile[0].codec_name == "libtiff"  # type: ignore[attr-defined]
    if is_compressed and raw_mode in _NATIVE:
        values = _load_as(image, _NATIVE[raw_mode])
    else:
        values = np.asarray(image)
    is_unsigned = raw_mode.startswith("I;32") and not raw_mode.endswith("S")
    return (values.view(np.uint32) if is_unsigned else values)[..., None]


def _range(values: NDArray[Any], *, name: str) -> tuple[float, float]:
    """Return the values that become 0 and 255."""
    if values.dtype.itemsize == 2:
        highest = int(values.max())
        return 0, highest if highest < SMALL_VALUES else LARGEST_OF_16_BITS
    if values.dtype.kind != "f":
        return int(values.min()), int(values.max())
    is_number = np.isfinite(values)
    if not is_number.any():
        raise PictureError("undecodable_image", f"{name}: none of its values is a number")
    lowest = values.min(where=is_number, initial=np.inf)
    return float(lowest), float(values.max(where=is_number, initial=-np.inf))


def _scale(values: NDArray[Any], lowest: float, highest: float) -> Pixels:
    """Return uint8: `lowest` as 0, `highest` as 255; what is no number as 0."""
    scaled = np.empty(values.shape, np.uint8)
    factor = 255 / (highest - lowest) if highest > lowest else 0.0
    for row in range(0, len(values), _BAND_ROWS):
        band = values[row : row + _BAND_ROWS].astype(np.float64)
        band = np.nan_to_num(band, nan=lowest, posinf=highest, neginf=lowest)
        scaled[row : row + _BAND_ROWS] = np.rint((band - lowest) * factor)
    return scaled
