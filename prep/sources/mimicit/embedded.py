"""MIMIC-IT's joined packaging: Parquet rows whose `images` are the pictures themselves.

Pictures lie here without their ids, repeated in every row that shows them. A picture is therefore
known by the digest of its bytes, or by its MIMIC-IT or COCO id if its `path` gives one, so that
rows about the same pictures still meet. Files are read once, at most a row group of one at a time;
of a picture, 32 characters and its place are kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from vchat.prep.raw.data_path import DataPath, for_arrow, path_below
from vchat.prep.raw.rejected import Rejected
from vchat.prep.sources import coco
from vchat.shards.format.record import ImageRef

BATCH_ENTRIES = 16
"""A row holds up to some dozens of pictures of about 100 kB."""

_PAGE_BYTES = 2**20
"""Read of a column at a time, instead of all that the file has of it."""

_COCO_STEM = re.compile(r"[0-9]{12}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedPicture:
    """Stands in a list of image ids for a picture that its row brings; equal if `id` is equal."""

    id: str
    """As the set writes its image ids, or the digest of the bytes; empty if there are none."""

    is_named: bool = field(compare=False)
    """Whether `id` is one of the set's."""

    file: str = field(compare=False)
    """Below the data folder."""

    member: str = field(compare=False)
    """Row, column and position, as `parquet_cells.read_cell` wants them."""

    def __str__(self) -> str:
        return self.id

    def find(self, name: str, *, key: str, unique: bool = False) -> ImageRef:
        """Return its place, whatever it is looked up by: it is the only picture meant.

        Raises:
            Rejected: `missing_image` if its cell is empty.
        """
        if not self.id:
            raise Rejected("missing_image", f"{self.file}:{self.member} holds no picture")
        return ImageRef(key=key, file=self.file, member=self.member)


def embeds_pictures(file: DataPath) -> bool:
    """Tell whether the `images` of a Parquet file are pictures."""
    schema = pq.read_schema(for_arrow(file))
    kind = schema.field("images").type if "images" in schema.names else None
    if kind is None or not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    item = kind.value_type
    return pa.types.is_struct(item) and "bytes" in {one.name for one in item}


def read_embedding_entries(
    file: DataPath, *, columns: Sequence[str], name: str, data: DataPath
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a joined file of the set `name`, a `BroughtPicture` for each picture."""
    below, number = path_below(file, data), 0
    with pq.ParquetFile(for_arrow(file), buffer_size=_PAGE_BYTES, pre_buffer=False) as parquet:
        for batch in parquet.iter_batches(batch_size=BATCH_ENTRIES, columns=list(columns)):
            for row in batch.to_pylist():
                if isinstance(row["images"], list):
                    row["images"] = _embedded_pictures(row["images"], number, name=name, file=below)
                yield row
                number += 1


def _embedded_pictures(
    cells: list[Any], entry: int, *, name: str, file: str
) -> list[EmbeddedPicture]:
    pictures = []
    for position, cell in enumerate(cells):
        found = _image_id(cell, name=name)
        member = f"{entry}/images/{position}"
        is_named, known = found is not None, found if found is not None else _digest(cell)
        pictures.append(EmbeddedPicture(id=known, is_named=is_named, file=file, member=member))
    return pictures


def _image_id(cell: Any, *, name: str) -> str | None:
    """Return the image id that the `path` of a picture gives, None if it gives none."""
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
