"""Images in the form that shards store them, each encoded once although it is stored several times.

Photographs come back: the same one is in LLaVA, in CGD and in their blend, and its dialogues lie in
different shards. An image that the plan uses more than once is kept in the work folder, where tasks
of any process find it; the others pass through. A file that was cut off is made anew.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from vchat.base.files import write_atomically
from vchat.prep.convert.images import EncodedImage
from vchat.prep.plan.blend import USED, RecordColumns, SourceBlend
from vchat.shards.format.record import ImageRef

IMAGES_FOLDER = "images"


def find_repeated_images(
    sources: Sequence[RecordColumns], blends: Sequence[SourceBlend]
) -> NDArray[np.uint64]:
    """Return uint64[..]: sorted hashes of the image keys that used records show more than once."""
    shown = [
        columns.images[np.repeat(one.status == USED, columns.num_images)]
        for columns, one in zip(sources, blends, strict=True)
    ]
    hashes, counts = np.unique(np.concatenate(shown), return_counts=True)
    return hashes[counts > 1]


def write_repeated_images(hashes: NDArray[np.uint64], work: Path) -> None:
    """Store the hashes for the tasks."""
    with write_atomically(work / "repeated.npy") as file:
        np.save(file, hashes)


class EncodedImages:
    """Encodes images, and keeps those that come again."""

    def __init__(self, work: Path):
        """Use the folder that `write_repeated` wrote to."""
        self._repeated: NDArray[np.uint64] = np.asarray(
            np.load(work / "repeated.npy", mmap_mode="r")
        )
        self._folder = work / IMAGES_FOLDER
        self._folder.mkdir(exist_ok=True)

    def get(self, ref: ImageRef, encode: Callable[[ImageRef], EncodedImage]) -> EncodedImage:
        """Return the encoded image; `encode` must be pure, and may raise `Rejected`."""
        if not self._is_repeated(ref.key):
            return encode(ref)
        place = f"{ref.file}\0{ref.member}\0{ref.offset}"
        path = self._folder / xxhash.xxh3_128_hexdigest(place.encode())
        found = _read(path)
        if found is None:
            found = encode(ref)
            _write(path, found)
        return found

    def _is_repeated(self, key: str) -> bool:
        wanted = np.uint64(xxhash.xxh3_64_intdigest(key.encode()))
        position = int(np.searchsorted(self._repeated, wanted))
        return position < len(self._repeated) and bool(self._repeated[position] == wanted)


def _write(path: Path, image: EncodedImage) -> None:
    """Write a file that tells whether it is whole; it is not synced, for it can be made again."""
    described = asdict(image)
    data = described.pop("data")
    described["xxh3"] = xxhash.xxh3_64_hexdigest(data)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    aside.write_bytes(json.dumps(described).encode() + b"\n" + data)
    aside.replace(path)


def _read(path: Path) -> EncodedImage | None:
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
    return EncodedImage(
        data=data,
        extension=described["extension"],
        size=(size[0], size[1]),
        original_size=(original_size[0], original_size[1]),
    )
