"""Encode each image once, although shards store it several times.

Photographs repeat: the same one is in LLaVA, in CGD and in their blend, and its dialogues lie in
different shards. An image that the plan uses more than once is cached in the work folder, where
tasks of any process find it; the others pass through. A file that was cut off is made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from vchat.base.files import write_atomically
from vchat.prep.plan.blend import USED, RecordColumns, SourceBlend, hash_image_keys
from vchat.shards.format.record import ImageRef
from vchat.shards.format.sample import StoredImage

IMAGES_FOLDER = "images"


def find_repeated_images(
    sources: Sequence[RecordColumns], blends: Sequence[SourceBlend]
) -> NDArray[np.uint64]:
    """Return the sorted hashes, uint64[..], of the image keys that used records show repeatedly."""
    used = [
        columns.images[np.repeat(blend.status == USED, columns.num_images)]
        for columns, blend in zip(sources, blends, strict=True)
    ]
    hashes, counts = np.unique(np.concatenate(used), return_counts=True)
    return hashes[counts > 1]


def write_repeated_images(hashes: NDArray[np.uint64], work: Path) -> None:
    """Store the hashes for the tasks."""
    with write_atomically(work / "repeated.npy") as file:
        np.save(file, hashes)


class EncodedImages:
    """Encodes images, and caches those that the plan uses more than once."""

    def __init__(self, work: Path):
        """Use the work folder that `write_repeated_images` wrote to."""
        self._repeated: NDArray[np.uint64] = np.asarray(
            np.load(work / "repeated.npy", mmap_mode="r")
        )
        self._folder = work / IMAGES_FOLDER
        self._folder.mkdir(exist_ok=True)

    def get(self, ref: ImageRef, encode: Callable[[ImageRef], StoredImage]) -> StoredImage:
        """Return the encoded image; `encode` must be pure, and may raise `Rejected`."""
        if not self._is_repeated(ref.key):
            return encode(ref)
        location = f"{ref.file}\0{ref.member}\0{ref.offset}\0{ref.digest}"
        path = self._folder / xxhash.xxh3_128_hexdigest(location.encode())
        image = _read(path, key=ref.key)
        if image is None:
            image = encode(ref)
            _write(path, image)
        return image

    def _is_repeated(self, key: str) -> bool:
        (digest,) = hash_image_keys([key])
        index = int(np.searchsorted(self._repeated, digest))
        return index < len(self._repeated) and bool(self._repeated[index] == digest)


def _write(path: Path, image: StoredImage) -> None:
    """Write a file that says whether it is whole; it is not synced, for it can be made again."""
    described = asdict(image)
    described.pop("key")  # of whoever asks: several keys may name one file
    data = described.pop("data")
    described["xxh3"] = xxhash.xxh3_64_hexdigest(data)
    with write_atomically(path, sync=False) as file:
        file.write(json.dumps(described).encode() + b"\n" + data)


def _read(path: Path, *, key: str) -> StoredImage | None:
    """Return what `_write` wrote; None if there is no file or it is damaged."""
    try:
        head, _, data = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    try:
        described = json.loads(head)
    except ValueError:
        return None
    if described.pop("xxh3") != xxhash.xxh3_64_hexdigest(data):
        return None
    size, original_size = described["size"], described["original_size"]
    return StoredImage(
        key=key,
        data=data,
        extension=described["extension"],
        size=(size[0], size[1]),
        original_size=(original_size[0], original_size[1]),
    )
