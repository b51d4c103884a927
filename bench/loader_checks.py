"""Does a reader of `bench/loader.py` deliver what is stored? Ids equal, pixels within a grey level.

What is stored is read from the tars with `tarfile` and decoded with Pillow: by none of the readers.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from peer_sets import read_stored
from PIL import Image

SIDE = 224
POSITIONS_PER_IMAGE = 257
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)[:, None, None]
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)[:, None, None]
MOST_LEVELS = 1.01

Delivered = tuple[np.ndarray, np.ndarray]
"""Ids int[T], one per image first, and pixels [images, 3, SIDE, SIDE] of a sample."""


def decode_image(data: bytes) -> np.ndarray:
    """Decode and crop with Pillow, without normalising."""
    return centre(Image.open(io.BytesIO(data)).convert("RGB"))


def centre(image: Image.Image) -> np.ndarray:
    """Return uint8[3, SIDE, SIDE], the centre of an image."""
    left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
    cropped = image.crop((left, top, left + SIDE, top + SIDE))
    return np.asarray(cropped).transpose(2, 0, 1)


def levels(pixels: np.ndarray) -> np.ndarray:
    """Return pixels as grey levels, normalised ones as they were before."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.float32)
    return (pixels * STD + MEAN) * np.float32(255)


def image_id(data: Path) -> int:
    """Return the id that stands for an image."""
    return int(json.loads((data / "set" / "manifest.json").read_text())["tokenizer"]["image_id"])


def of_padded(batches: Iterable[tuple[Any, Any, int]], *, slot: int) -> Iterator[Delivered]:
    """Yield the samples of batches that are padded to their longest."""
    for ids, pixels, _ in batches:
        first = 0
        for row in ids.numpy():
            end = first + int((row == slot).sum())
            yield row[row != 0].astype(np.int32), pixels[first:end].numpy()
            first = end


def of_ours(batches: Iterable[Any], *, slot: int) -> Iterator[Delivered]:
    """Yield the samples of our packed batches; a slot stands once, as stored."""
    for batch in batches:
        first = 0
        for ids, segments in zip(batch.token_ids.numpy(), batch.segment_ids.numpy(), strict=True):
            for segment in range(1, int(segments.max()) + 1):
                sample = ids[segments == segment]
                images, rest = divmod(int((sample == slot).sum()), POSITIONS_PER_IMAGE)
                assert rest == 0, f"{rest} positions too many for {images} images"
                text = sample[sample != slot]
                once = np.concatenate([np.full(images, slot), text]).astype(np.int32)
                yield once, batch.pixels[first : first + images].numpy()
                first += images


def largest_difference(samples: Iterable[Delivered], *, data: Path, with_pixels: bool) -> float:
    """Return the largest difference of any pixel from what is stored, in grey levels.

    Raises:
        ValueError: ids of no stored sample, another number of images, or other pixels.
    """
    by_ids = {sample["ids"]: sample for sample in read_stored(data)}
    largest = 0.0
    for ids, pixels in samples:
        if (sample := by_ids.get(ids.tobytes())) is None:
            raise ValueError(f"delivered {len(ids)} ids that no stored sample has: {ids[:8]} ...")
        images = split(sample)
        if pixels.shape != (len(images), 3, SIDE, SIDE):
            raise ValueError(f"delivered pixels {pixels.shape} for {len(images)} images")
        if with_pixels:
            wanted = np.stack([decode_image(image) for image in images])
            largest = max(largest, float(np.abs(levels(pixels) - levels(wanted)).max()))
    return within(largest)


def split(sample: dict[str, Any]) -> list[bytes]:
    """Return the images that lie end to end in a stored sample."""
    ends = np.cumsum(np.frombuffer(sample["sizes"], np.int32))
    starts = np.concatenate([[0], ends[:-1]])
    return [sample["images"][a:b] for a, b in zip(starts, ends, strict=True)]


def difference_of_processed(pixels: np.ndarray, *, data: Path) -> float:
    """Return the largest difference of photographs processed now from Pillow's way, in grey levels.

    Args:
        pixels: of the first rows of `dialogues.json`, in order.

    Raises:
        ValueError: they are other pixels.
    """
    rows = json.loads((data / "dialogues.json").read_text())
    photos = [photo for row in rows for photo in row["photos"]][: len(pixels)]
    wanted = np.stack([centre(small(data / "photos" / f"{photo}.jpg")) for photo in photos])
    return within(float(np.abs(levels(pixels) - levels(wanted)).max()))


def small(path: Path) -> Image.Image:
    """Open a photograph and resize it to a shorter side of `SIDE`."""
    image = Image.open(path).convert("RGB")
    short = min(image.size)
    width, height = (side * SIDE // short for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def within(difference: float) -> float:
    """Return a difference in grey levels, or raise ValueError if it is too large."""
    if difference > MOST_LEVELS:
        raise ValueError(f"delivered pixels are {difference:.1f} grey levels off")
    return difference
