"""MIMIC-IT's embedding packaging: Parquet entries whose `images` are the pictures themselves.

Here pictures have no ids, and are repeated in every entry that shows them. A picture is therefore
identified by the digest of its bytes, or by its MIMIC-IT or COCO id if its `path` gives one, so
that entries about the same pictures are still grouped. Memory: at most one row group of one file,
and per picture 32 characters and its cell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import xxhash

from vchat.prep.raw.data_path import DataPath, path_below
from vchat.prep.raw.parquet_cells import read_rows, read_schema
from vchat.prep.raw.rejected import Rejected
from vchat.prep.sources import coco
from vchat.shards.format.record import ImageRef

BATCH_ENTRIES = 16
"""Entries decoded at a time; each holds up to some dozens of pictures of about 100 kB."""

_PAGE_BYTES = 2**20
"""Bytes of a column read at a time, instead of the whole column."""

_COCO_STEM = re.compile(r"[0-9]{12}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedPicture:
    """Replaces an image id in the list of an entry that embeds the picture; compared by `id`."""

    id: str
    """An image id as the set writes it, or the digest of the bytes; empty if there are none."""

    is_named: bool = field(compare=False)
    """Whether `id` is an image id of the set."""

    file: str = field(compare=False)
    """Below the data folder."""

    member: str = field(compare=False)
    """Row, column and item, in the form that `parquet_cells.read_cell` takes."""

    def __str__(self) -> str:
        return self.id

    def find(self, name: str, *, key: str, unique: bool = False) -> ImageRef:
        """Return a reference to this picture, by whatever name: see `frames.PictureLookup`.

        Raises:
            Rejected: `missing_image` if its cell is empty.
        """
        if not self.id:
            raise Rejected("missing_image", f"{self.file}:{self.member} holds no picture")
        return ImageRef(key=key, file=self.file, member=self.member)


def embeds_pictures(file: DataPath) -> bool:
    """Tell whether the column `images` of a Parquet file holds pictures."""
    schema = read_schema(file)
    kind = schema.field("images").type if "images" in schema.names else None
    if kind is None or not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    item = kind.value_type
    return pa.types.is_struct(item) and "bytes" in {one.name for one in item}


def read_embedding_entries(
    file: DataPath, *, columns: Sequence[str], name: str, data: DataPath
) -> Iterator[tuple[int, Any]]:
    """Yield the entries of an embedding file of the set `name`, pictures as `EmbeddedPicture`.

    Each comes with its number, from 0.
    """
    below, options = path_below(file, data), {"buffer_size": _PAGE_BYTES, "pre_buffer": False}
    for number, entry in read_rows(file, columns=columns, batch_rows=BATCH_ENTRIES, **options):
        if isinstance(entry, dict) and isinstance(entry["images"], list):
            cells = entry["images"]
            entry["images"] = _embedded_pictures(cells, number, name=name, file=below)
        yield number, entry


def _embedded_pictures(
    cells: list[Any], row: int, *, name: str, file: str
) -> list[EmbeddedPicture]:
    pictures = []
    for item, cell in enumerate(cells):
        image_id = _image_id(cell, name=name)
        pictures.append(
            EmbeddedPicture(
                id=_digest(cell) if image_id is None else image_id,
                is_named=image_id is not None,
                file=file,
                member=f"{row}/images/{item}",
            )
        )
    return pictures


def _image_id(cell: Any, *, name: str) -> str | None:
    """Return the image id in the `path` of a picture, None if there is none."""
    path = cell.get("path") if isinstance(cell, Mapping) and cell.get("bytes") else None
    if not isinstance(path, str):
        return None
    prefix, stem = f"{name}_IMG_", PurePosixPath(path).stem
    if stem.startswith(prefix):
        return stem
    if name != "CGD":
        return None
    number = int(stem) if _COCO_STEM.fullmatch(stem) else coco.number_in_path(path)
    return None if number is None else f"{prefix}{number:012d}"


def _digest(cell: Any) -> str:
    data = cell.get("bytes") if isinstance(cell, Mapping) else None
    return xxhash.xxh3_128_hexdigest(data) if data else ""
