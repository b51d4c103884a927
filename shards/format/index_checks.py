"""The values of an index, checked against FORMAT.md and the manifest before anything uses them.

A reader trusts the index: it allocates what the index says and reads where the index points. So
each number is in its range, each sample has its members once, next to each other and inside its
shard, and each row is of the split of its shard.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vchat.base.arrays import offsets_from_counts
from vchat.base.checked_json import show_value
from vchat.shards.format.manifest_schema import MAX_SAMPLE_TOKENS

BLOCK_BYTES = 512
MAX_IMAGES = 10_000
"""Of one sample."""

MAX_MEMBER_BYTES = 2**28
"""A reader holds a whole sample in memory."""

MAX_ROUNDS = 2**20
MAX_SIDE = 2**15 - 1
"""A plan multiplies two sides; what a reader decodes is less (`pixels/limits.py`)."""

MAX_TEXT_BYTES = 4096
"""Of a key or another name."""

IMAGE_NAME = re.compile(r"(0|[1-9][0-9]{0,4})\.(jpg|png|webp)")
CODES = {"json": -3, "mask.npy": -2, "tokens.npy": -1}
"""Member -> its code; that of an image is its number."""

WRONG_NAME = -4

Ints = NDArray[np.int64]


class IndexChecker:
    """Checks the rows of one part of an index."""

    def __init__(self, table: pa.Table, *, manifest: Mapping[str, Any], name: str):
        """Take the known columns of a part.

        Args:
            table: With the columns of `INDEX_SCHEMA`.
            manifest: Of the set; checked.
            name: Of the file, for errors.
        """
        self._table, self._name = table.combine_chunks(), name
        self._shards = manifest["shards"]

    def check(self) -> None:
        """Raise ValueError, naming file, row and column, at the first value that cannot be."""
        self._check_whole()
        self._check_texts()
        self._check_range("shard", 0, len(self._shards) - 1)
        self._check_splits()
        self._check_range("num_images", 0, MAX_IMAGES)
        for name in ("num_records", "num_rounds"):
            self._check_range(name, 1, MAX_ROUNDS)
        self._check_range("text_tokens", 0, MAX_SAMPLE_TOKENS)
        most = self._column("text_tokens") + self._column("num_images")
        self._check_range("supervised_tokens", 0, most)
        self._check_images()
        self._check_members()

    def _column(self, name: str) -> Ints:
        numbers: Ints = self._table[name].to_numpy().astype(np.int64)
        return numbers

    def _fail(self, row: int, column: str, found: object, wanted: object) -> NoReturn:
        raise ValueError(
            f"{self._name}, row {row}: {column} is {show_value(found)}, wanted {wanted}"
        )

    def _first(self, wrong: NDArray[np.bool_]) -> int | None:
        """Return the number of the first row that is wrong."""
        found = int(wrong.argmax()) if len(wrong) else 0
        return found if len(wrong) and wrong[found] else None

    def _check_whole(self) -> None:
        """Check what Arrow itself requires, and that no value is null."""
        try:
            self._table.validate(full=True)
        except (pa.ArrowException, ValueError) as error:
            raise ValueError(f"{self._name} is malformed: {_one_line(error)}") from error
        for column in self._table.schema.names:
            if _has_nulls(self._table[column]):
                raise ValueError(f"{self._name}: the column {column!r} has nulls, wanted none")

    def _check_range(self, column: str, low: int, high: int | Ints) -> None:
        values = self._column(column)
        row = self._first((values < low) | (values > high))
        if row is not None:
            most = int(np.broadcast_to(high, values.shape)[row])
            self._fail(row, column, int(values[row]), f"{low} to {most}")

    def _check_texts(self) -> None:
        """Check the lengths of keys and names, and the form of stems."""
        for column in ("key", "source", "split", "stem"):
            lengths = pc.binary_length(self._table[column].cast(pa.string())).to_numpy()
            row = self._first(lengths > MAX_TEXT_BYTES)
            if row is not None:
                self._fail(row, column, f"of {lengths[row]} bytes", f"at most {MAX_TEXT_BYTES}")
        stems = self._table["stem"]
        row = self._first(~pc.match_substring_regex(stems, r"\A[0-9]{9}\z").to_numpy())
        if row is not None:
            self._fail(row, "stem", stems[row].as_py(), "9 digits")

    def _check_splits(self) -> None:
        """Check that each row has the split of its shard."""
        of_shards = [shard["split"] for shard in self._shards]
        known = {split: number for number, split in enumerate(dict.fromkeys(of_shards))}
        wanted = np.array([known[split] for split in of_shards], np.int64)
        found = pc.index_in(self._table["split"], value_set=pa.array(list(known))).fill_null(-1)
        shard = self._column("shard")
        row = self._first(found.to_numpy() != wanted[shard])
        if row is not None:
            split = self._table["split"][row].as_py()
            self._fail(row, "split", split, f"{of_shards[shard[row]]!r}, that of its shard")

    def _check_images(self) -> None:
        """Check that the columns about images have a value, or two, for each image."""
        num_images = self._column("num_images")
        for column, each, high in (
            ("image_sizes", 2, MAX_SIDE),
            ("image_original_sizes", 2, 2**31 - 1),
            ("image_keys", 1, None),
        ):
            lists = _one_array(self._table[column])
            lengths = lists.value_lengths().to_numpy().astype(np.int64)
            row = self._first(lengths != each * num_images)
            if row is not None:
                self._fail(row, f"length of {column}", int(lengths[row]), each * num_images[row])
            if high is None:
                wrong = pc.binary_length(lists.flatten()).to_numpy() > MAX_TEXT_BYTES
            else:
                values = lists.flatten().to_numpy()
                wrong = (values < 1) | (values > high)
            at = self._first(wrong)
            if at is not None:
                row = int(np.repeat(np.arange(len(lengths)), lengths)[at])
                wanted = f"1 to {high}" if high else f"at most {MAX_TEXT_BYTES} bytes"
                self._fail(row, column, lists[row].as_py(), wanted)

    def _check_members(self) -> None:
        """Check that each sample has its members once, in a row, inside its shard."""
        lists = _one_array(self._table["members"])
        counts = lists.value_lengths().to_numpy().astype(np.int64)
        row = self._first(counts != self._column("num_images") + len(CODES))
        if row is not None:
            wanted = int(self._column("num_images")[row]) + len(CODES)
            self._fail(row, "number of members", int(counts[row]), wanted)
        members, sample = lists.flatten(), np.repeat(np.arange(len(counts)), counts)
        self._check_names(members, sample, counts=counts)
        self._check_places(members, sample)

    def _check_names(self, members: pa.StructArray, sample: Ints, *, counts: Ints) -> None:
        names = members.field("name").dictionary_encode()
        codes = np.array([_code(name) for name in names.dictionary.to_pylist()], np.int64)
        code = codes[names.indices.to_numpy()] if len(names) else np.zeros(0, np.int64)
        slot = code - WRONG_NAME - 1
        wrong = (slot < 0) | (slot >= counts[sample])
        if not wrong.any():
            place = offsets_from_counts(counts)[sample] + slot
            there = np.zeros(len(place), np.bool_)
            there[place] = True
            if not there.all():  # as many members as places, so one comes twice
                wrong = np.bincount(place, minlength=len(place))[place] != 1
        at = self._first(wrong)
        if at is not None:
            found = members[at].as_py()["name"]
            self._fail(
                int(sample[at]), "member", found, "json, mask.npy, tokens.npy, each image once"
            )

    def _check_places(self, members: pa.StructArray, sample: Ints) -> None:
        offset, size = (members.field(name).to_numpy() for name in ("offset", "size"))
        bytes_of = np.array([shard["bytes"] for shard in self._shards], np.int64)
        room = bytes_of[self._column("shard")][sample]
        wrong = (
            (size < 0)
            | (size > np.minimum(room, MAX_MEMBER_BYTES))
            | (offset < BLOCK_BYTES)
            | (offset > room)
        )
        wrong |= (offset % BLOCK_BYTES != 0) | (offset + np.where(wrong, 0, size) > room)
        at = self._first(wrong)
        if at is None:
            end = offset + -(-size // BLOCK_BYTES) * BLOCK_BYTES
            apart = (offset[1:] != end[:-1] + BLOCK_BYTES) & (sample[1:] == sample[:-1])
            before = self._first(apart)
            at = None if before is None else before + 1
        if at is not None:
            one = members[at].as_py()
            found = f"{one['name']} at byte {one['offset']} of {one['size']} bytes"
            wanted = f"members one after the other within the {room[at]} bytes of the shard"
            self._fail(int(sample[at]), "member", found, wanted)


def check_order(table: pa.Table, *, manifest: Mapping[str, Any], name: str) -> None:
    """Raise ValueError unless rows are in the order of shards, each with all of its samples."""
    shard = table["shard"].to_numpy()
    if (np.diff(shard) < 0).any():
        row = int((np.diff(shard) < 0).argmax()) + 1
        raise ValueError(
            f"{name}, row {row}: shard is {shard[row]} after {shard[row - 1]}, wanted ascending"
        )
    found = np.bincount(shard, minlength=len(manifest["shards"]))
    for number, one in enumerate(manifest["shards"]):
        if found[number] != one["samples"]:
            raise ValueError(
                f"{name} has {found[number]} rows of {one['name']}, manifest.json says"
                f" {one['samples']}"
            )


def _code(name: str) -> int:
    """Return the code of a member, `WRONG_NAME` for a name that no member has."""
    if IMAGE_NAME.fullmatch(name):
        return int(name.partition(".")[0])
    return CODES.get(name, WRONG_NAME)


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks != 1 else column.chunk(0)


def _has_nulls(column: pa.ChunkedArray | pa.Array) -> bool:
    """Whether a column, or a column inside it, has nulls."""
    if column.null_count:
        return True
    if pa.types.is_list(column.type):
        return _has_nulls(pc.list_flatten(column))
    if pa.types.is_struct(column.type):
        return any(_has_nulls(pc.struct_field(column, field.name)) for field in column.type)
    if pa.types.is_dictionary(column.type):
        return _has_nulls(column.cast(pa.string()))
    return False


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
