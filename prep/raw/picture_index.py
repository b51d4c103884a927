"""Finds the pictures of large container files by name, with 26 bytes of memory per name.

A container is a JSON object of base64 texts or a Parquet file with a column of pictures; its
content tells which. Each container is scanned once, a block at a time; a picture is then read by
its offset or row. A picture may have several names, so that ids of different spelling match.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from vchat.prep.raw.base64_json import value_spans
from vchat.prep.raw.data_path import DataPath, path_below
from vchat.prep.raw.offset_index import load_value_spans
from vchat.prep.raw.parquet_cells import is_parquet, picture_column, picture_ids
from vchat.shards.format.record import ImageRef

IN_PARQUET = -1
"""The size of a picture in Parquet, whose offset is a row number."""


class PictureIndex:
    """Maps names to pictures of container files."""

    def __init__(
        self,
        data: DataPath,
        files: Iterable[DataPath],
        *,
        names: Callable[[str], Iterable[str]],
        index_folder: Path | None = None,
    ):
        """Scan every file once.

        Args:
            files: Containers below the folder `data`.
            names: Returns the names by which `find` knows the picture of an id.
            index_folder: Stores the scan of a JSON file for the next process; None to store none.
        """
        hashes, spans = array("Q"), array("q")
        self._files: list[tuple[str, str]] = []
        for number, path in enumerate(files):
            column = picture_column(path) if is_parquet(path) else ""
            self._files.append((path_below(path, data), column))
            for picture_id, offset, size in _pictures(path, index_folder=index_folder):
                for name in names(picture_id):
                    hashes.append(xxhash.xxh3_64_intdigest(name.encode()))
                    spans.extend((number, offset, size))
        order = np.argsort(np.frombuffer(hashes, dtype=np.uint64), kind="stable")
        self._hashes: NDArray[np.uint64] = np.frombuffer(hashes, dtype=np.uint64)[order]
        table = np.frombuffer(spans, dtype=np.int64).reshape(-1, 3)[order]
        self._numbers = table[:, 0].astype(np.uint16)
        self._offsets = table[:, 1].copy()
        self._sizes = table[:, 2].copy()

    def find(self, name: str, *, key: str, unique: bool = False) -> ImageRef | None:
        """Return a reference to the picture of that name, or None if there is none.

        Args:
            name: One of the names that `names` returned for it.
            key: The canonical key of the reference.
            unique: Return None for a name of several pictures, instead of the first of them.
        """
        wanted = np.uint64(xxhash.xxh3_64_intdigest(name.encode()))
        left = int(np.searchsorted(self._hashes, wanted))
        right = int(np.searchsorted(self._hashes, wanted, side="right"))
        if left == right or (unique and right - left > 1):
            return None
        file, column = self._files[self._numbers[left]]
        offset, size = int(self._offsets[left]), int(self._sizes[left])
        if size == IN_PARQUET:
            return ImageRef(key=key, file=file, member=f"{offset}/{column}")
        return ImageRef(key=key, file=file, offset=offset, size_bytes=size)


def _pictures(path: DataPath, *, index_folder: Path | None) -> Iterator[tuple[str, int, int]]:
    """Yield `(id, offset, size)` of every picture of a container."""
    if is_parquet(path):
        for row, picture_id in enumerate(picture_ids(path)):
            yield picture_id, row, IN_PARQUET
    else:
        spans = value_spans(path) if index_folder is None else load_value_spans(path, index_folder)
        for name, span in spans:
            yield name, span.offset, span.size
