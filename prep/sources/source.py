"""What a source is: where its files come from, and how they are read into records.

A source turns one upstream data set into records and nothing else: no tokenizer, no blending, no
randomness, no writing. It yields one `Entry` per entry of its annotation files, in file order, and
an entry converts to a record or is `Rejected`. `prep.convert` checks for all sources whether image
files exist and what their headers say.
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
    """The result of converting one entry: a record, and counts of what it leaves out or repairs."""

    record: Record
    rejected_pairs: Counter[str] = field(default_factory=Counter)
    """Reason code -> number of pairs of the entry that are not in the record."""

    repairs: Counter[str] = field(default_factory=Counter)
    """Rule -> number of image ids that match only after this rule changes their spelling."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of an annotation file, unchecked."""

    id: str
    """Its id, or its number in the file, for messages."""

    num_pairs: int
    """Question/answer pairs in the entry, whether usable or not."""

    convert: Callable[[], Converted]
    """Returns the record, or raises `Rejected`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """A file or folder that a source reads, and where a user gets it."""

    paths: tuple[str, ...]
    """Alternatives, below the data folder. A folder ends in `/` and may be a `.zip` or `.tar` of
    the same name instead. A `*` matches any name."""

    how: str
    """What to download and where to put it, as the end of a sentence."""

    is_images: bool = False
    """Whether it is a file of images rather than of annotations (a folder always is)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownCount:
    """The size of a complete copy of a data set."""

    number: int
    of: Literal["rows", "pairs"]
    """Entries of the annotation files (reports say rows), or their question/answer pairs."""

    is_exact: bool = True
    """Whether the publisher states this number; else it is approximate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One data set that `vchat-prep build --datasets` knows by name."""

    name: str
    about: str
    """One line: what its questions and images are."""

    needs: tuple[Need, ...]
    licence: str
    read_entries: Callable[[DataPath], Iterator[Entry]]
    """Yields the entries of a data folder, in file order."""

    read_entries_indexed: Callable[[DataPath, Path], Iterator[Entry]] | None = None
    """`read_entries` of a source that scans a large file before its first entry: it stores the
    result of the scan in a folder, where the next call finds it. None if there is no such scan."""

    may_leave_out_images: bool = False
    """Whether a record with too many images for a dialogue keeps evenly spaced ones (frames of a
    walk) instead of being rejected."""

    known_count: KnownCount | None = None
    """What `vchat-prep doctor` compares a copy with; a build ignores it."""

    splits: tuple[str, ...] = ()
    """The splits whose entries become records; others are rejected as `wrong_split`. Empty if the
    annotation names no splits."""

    all_splits: tuple[str, ...] = ()
    """The splits that the annotation names."""

    of_splits: Callable[[tuple[str, ...]], Source] | None = None
    """Returns this source with other `splits`; None if and only if `all_splits` is empty."""

    def with_splits(self, splits: tuple[str, ...]) -> Source:
        """Return the source that uses the entries of these splits.

        Raises:
            WrongUse: If the data set has no splits, or not one of these.
        """
        wrong = [split for split in splits if split not in self.all_splits]
        if self.of_splits is None or wrong or not splits:
            known = ", ".join(self.all_splits) or "none: its file holds one split alone"
            raise WrongUse(f"{self.name}: splits = {list(splits)}: its splits are {known}")
        return self.of_splits(splits)

    def read(self, data: DataPath, *, index_folder: Path) -> Iterator[Entry]:
        """Yield the entries of a data folder; a source stores its scan in `index_folder`."""
        return (
            self.read_entries(data)
            if self.read_entries_indexed is None
            else self.read_entries_indexed(data, index_folder)
        )


def check_needs(source: Source, data: DataPath) -> None:
    """Check, before any work, that every file and folder that the source reads exists.

    Raises:
        ValueError: If one is missing; says what to download and where to put it.
    """
    for need in source.needs:
        if not existing_paths(need, data):
            wanted = " or ".join(str(data / path) for path in need.paths)
            kind = "image file" if need.is_images else "annotation file"
            kind = "image folder" if need.paths[0].endswith("/") else kind
            raise ValueError(f"{source.name}: {kind} {wanted} is missing; {need.how}")


def existing_paths(need: Need, data: DataPath) -> list[DataPath]:
    """Return the files, folders and archives of a need that exist, in order of its paths."""
    return [found for path in need.paths for found in _existing(data, path)]


def _existing(data: DataPath, path: str) -> list[DataPath]:
    """Return the folder or its archive, the file, or the files of the pattern, if they exist."""
    if path.endswith("/"):
        folder = data / path if (data / path).is_dir() else archive_of(data / path)
        return [] if folder is None else [folder]
    if "*" in path:
        return find_files(data, path)
    return [data / path] if (data / path).is_file() else []


def annotation_files(source: Source, data: DataPath) -> list[DataPath]:
    """Return the annotation files that exist, in the order of `needs`."""
    paths = (path for need in source.needs if not need.is_images for path in need.paths)
    return [file for path in paths if path[-1] != "/" for file in _existing(data, path)]


def image_paths(source: Source, data: DataPath) -> list[DataPath]:
    """Return the folders, archives and files of images that exist, in the order of `needs`."""
    paths = (
        path for need in source.needs for path in need.paths if need.is_images or path[-1] == "/"
    )
    return [found for path in paths for found in _existing(data, path)]
