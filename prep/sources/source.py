"""What a source is: where its files come from, and how they are read into records.

A source turns one upstream data set into records and nothing else: no tokenizer, no blending, no
randomness, no writing. It yields one `Row` per row of its annotation files, in file order, and a
row converts to a record or is `Rejected`. Whether image files exist and what their headers say is
checked for all sources in one place (`prep.convert`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vchat.base.cli import WrongUse
from vchat.prep.raw.archives import archive_of
from vchat.prep.raw.data_path import DataPath, find_files
from vchat.shards.format.record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """What a row gave: a record, and the question/answer pairs that were left out of it."""

    record: Record
    rejected_pairs: Counter[str] = field(default_factory=Counter)
    """Reason code -> how many pairs of the row are not in the record."""

    repairs: Counter[str] = field(default_factory=Counter)
    """Rule -> how many image ids were found by it that are not written as they should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One row of an annotation file, before anything about it is checked."""

    id: str
    """Its id or position in the file, for messages."""

    num_pairs: int
    """Question/answer pairs in the row, whether usable or not."""

    convert: Callable[[], Converted]
    """Returns the record, or raises `Rejected`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """A file or folder that a source reads, and how a user gets it."""

    paths: tuple[str, ...]
    """Below the data folder; any one of them will do. A folder ends in `/`; a `.zip` or `.tar` of
    the same name does as well. A `*` matches any name."""

    how: str
    """What to download and where to put it, as the end of a sentence."""

    is_images: bool = False
    """Whether it is a file of images rather than of annotations (a folder always is)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownCount:
    """How much a complete copy of a data set holds."""

    number: int
    of: Literal["rows", "pairs"]
    """Rows of the annotation, or the question/answer pairs in them."""

    is_exact: bool = True
    """Whether its publisher states this very number; else it is about that many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One data set that `vchat-prep build --datasets` knows by name."""

    name: str
    about: str
    """One line: what its questions and images are."""

    needs: tuple[Need, ...]
    licence: str
    read_entries: Callable[[DataPath], Iterator[Entry]]
    """Reads the data folder, row by row in file order."""

    read_entries_indexed: Callable[[DataPath, Path], Iterator[Entry]] | None = None
    """As `rows`, of a source that must read through a large file before its first row: keeps what
    it found in a folder, so that the next call need not. None if there is nothing to keep."""

    may_leave_out_images: bool = False
    """Whether a record with more images than a dialogue may have keeps an even choice of them (the
    frames of a walk) instead of being rejected."""

    known_count: KnownCount | None = None
    """Compared with what is there by `vchat-prep doctor`; a build does not look at it."""

    splits: tuple[str, ...] = ()
    """Of those that the annotation names, the splits whose records are used; records of others are
    rejected as `wrong_split`. Empty if it names none."""

    all_splits: tuple[str, ...] = ()
    """The splits that the annotation names."""

    of_splits: Callable[[tuple[str, ...]], Source] | None = None
    """Returns this source with other `splits`; there is one if there are `all_splits`."""

    def with_splits(self, splits: tuple[str, ...]) -> Source:
        """Return the source that uses the records of these splits.

        Raises:
            WrongUse: if the data set has no splits, or none of a name.
        """
        wrong = [split for split in splits if split not in self.all_splits]
        if self.of_splits is None or wrong or not splits:
            known = ", ".join(self.all_splits) or "none: its file holds one split alone"
            raise WrongUse(f"{self.name}: splits = {list(splits)}: its splits are {known}")
        return self.of_splits(splits)

    def read(self, data: DataPath, *, index_folder: Path) -> Iterator[Entry]:
        """Yield the rows of a data folder; what a source keeps lies in the folder `kept`."""
        return (
            self.read_entries(data)
            if self.read_entries_indexed is None
            else self.read_entries_indexed(data, index_folder)
        )


def check_needs(source: Source, data: DataPath) -> None:
    """Check that every file and folder the source reads is there, before any work.

    Raises:
        ValueError: naming what is missing, what to download and where to put it.
    """
    for need in source.needs:
        if not existing_paths(need, data):
            wanted = " or ".join(str(data / path) for path in need.paths)
            kind = "image file" if need.is_images else "annotation file"
            kind = "image folder" if need.paths[0].endswith("/") else kind
            raise ValueError(f"{source.name}: {kind} {wanted} is missing; {need.how}")


def existing_paths(need: Need, data: DataPath) -> list[DataPath]:
    """Return the files, folders and archives of a need that are there, in order of its paths."""
    return [place for path in need.paths for place in _existing(data, path)]


def _existing(data: DataPath, path: str) -> list[DataPath]:
    """Return what is there of a folder (or its archive), a file, or the files of a pattern."""
    if path.endswith("/"):
        place = data / path if (data / path).is_dir() else archive_of(data / path)
        return [] if place is None else [place]
    if "*" in path:
        return find_files(data, path)
    return [data / path] if (data / path).is_file() else []


def annotation_files(source: Source, data: DataPath) -> list[DataPath]:
    """Return the annotation files that are there, in the order of `needs`."""
    paths = (path for need in source.needs if not need.is_images for path in need.paths)
    return [file for path in paths if path[-1] != "/" for file in _existing(data, path)]


def image_paths(source: Source, data: DataPath) -> list[DataPath]:
    """Return the folders, archives and files of images that are there, in order of `needs`."""
    paths = (
        path for need in source.needs for path in need.paths if need.is_images or path[-1] == "/"
    )
    return [place for path in paths for place in _existing(data, path)]
