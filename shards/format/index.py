"""The index of a shard set: one row per sample, all that a plan and a reader need of it.

A row says what a sample is (counts, sizes, keys) and where in a tar its members lie, so no reader
parses a tar header. Written as Parquet in parts of bounded size; FORMAT.md lists the columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from vchat.base.arrays import offsets_from_counts
from vchat.base.checked_json import show_value
from vchat.base.files import sha256_file, write_atomically
from vchat.base.safe_paths import read_regular
from vchat.shards.format.index_checks import BLOCK_BYTES, IndexChecker, check_order
from vchat.shards.format.manifest_schema import MAX_ROWS_PER_PART
from vchat.shards.format.sample import Sample

ROWS_PER_PART = MAX_ROWS_PER_PART
MAX_PART_BYTES = 2**30
VALUES_PER_ROW = 2048
"""Of a list, on average over a part."""

MAX_CHUNKS = 1000
"""Columns, or groups of rows, of a part."""

MAX_TEXT_BYTES = 2**30
"""Of the strings of one column of a part."""

TEXT_PATHS = ("key", "split", "stem", "image_keys.list.element", "members.list.element.name")
"""The columns of strings, as Parquet names them."""

_SIZES = pa.list_(pa.int32())
_MEMBER = pa.struct(
    [("name", pa.string()), ("offset", pa.int64()), ("size", pa.int64()), ("xxh3", pa.uint64())]
)
ROW_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("source", pa.dictionary(pa.int32(), pa.string())),
        ("split", pa.string()),
        ("text_tokens", pa.int32()),
        ("supervised_tokens", pa.int32()),
        ("num_images", pa.int32()),
        ("num_records", pa.int32()),
        ("num_rounds", pa.int32()),
        ("image_sizes", _SIZES),
        ("image_original_sizes", _SIZES),
        ("image_keys", pa.list_(pa.string())),
        ("stem", pa.string()),
        ("members", pa.list_(_MEMBER)),
    ]
)
"""The columns of an index row before publication, which adds the number of the shard."""

INDEX_SCHEMA = ROW_SCHEMA.append(pa.field("shard", pa.int32()))
"""The columns of a published index."""


def locate_members(members: Sequence[tuple[str, bytes]], *, start: int) -> list[dict[str, Any]]:
    """Return name, offset, size and checksum of members, the first header at byte `start`."""
    located = []
    for name, data in members:
        start += BLOCK_BYTES
        located.append(
            {
                "name": name,
                "offset": start,
                "size": len(data),
                "xxh3": xxhash.xxh3_64_intdigest(data),
            }
        )
        start += pad_to_block(len(data))
    return located


def index_row(sample: Sample, *, stem: str, located: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the index row of a sample, a dictionary of `ROW_SCHEMA`."""
    images = sample.images
    return {
        "key": sample.key,
        "source": sample.source,
        "split": sample.split,
        "text_tokens": len(sample.ids) - len(images),
        "supervised_tokens": int(np.count_nonzero(sample.supervised)),
        "num_images": len(images),
        "num_records": len(sample.records),
        "num_rounds": len(sample.rounds),
        "image_sizes": [side for image in images for side in image.size],
        "image_original_sizes": [side for image in images for side in image.original_size],
        "image_keys": [image.key for image in images],
        "stem": stem,
        "members": located,
    }


def check_row(sample: Sample, row: Mapping[str, Any], *, name: str) -> None:
    """Raise ValueError unless a sample is what its index row says.

    Args:
        sample: As it was read.
        row: Of the index.
        name: Of the sample in errors.
    """
    found = index_row(sample, stem=row["stem"], located=[])
    for column in sorted(found.keys() - {"members"}):
        if found[column] != row[column]:
            raise ValueError(
                f"{name}: {column} is {show_value(found[column])}, the index says"
                f" {show_value(row[column])}"
            )


def pad_to_block(size: int) -> int:
    """Round a size up to whole blocks."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def write_index(folder: Path, index: pa.Table) -> Iterator[dict[str, Any]]:
    """Write the index as files of bounded size; yield name, number of rows and digest of each.

    Raises:
        ValueError: A column of `INDEX_SCHEMA` is missing or has another type.
    """
    _check_columns(index.schema, str(folder))
    for number, start in enumerate(range(0, max(index.num_rows, 1), ROWS_PER_PART)):
        part = index.slice(start, ROWS_PER_PART)
        path = folder / f"part-{number:05d}.parquet"
        with write_atomically(path) as file:
            pq.write_table(part, file, compression="zstd")
        yield {"name": path.name, "rows": part.num_rows, "sha256": sha256_file(path)}


def read_index(folder: Path, manifest: Mapping[str, Any]) -> pa.Table:
    """Read the index of the set in `folder`, each value of it checked.

    Args:
        folder: Of the shard set.
        manifest: Of the set; checked.

    Raises:
        ValueError: A file is missing, damaged, has another number of rows than listed, lacks a
            column of `INDEX_SCHEMA`, or has a value that cannot be; names file, row and column.
    """
    parts = [_read_part(folder, part, manifest) for part in manifest["index"]]
    index = pa.concat_tables(parts).unify_dictionaries()
    check_order(index, manifest=manifest, name=f"{folder}/index")
    return index


def _read_part(folder: Path, part: Mapping[str, Any], manifest: Mapping[str, Any]) -> pa.Table:
    name = f"{folder}/index/{part['name']}"
    try:
        data = read_regular(folder, f"index/{part['name']}", max_bytes=MAX_PART_BYTES)
    except FileNotFoundError as error:
        raise ValueError(f"no index file {name}, which manifest.json lists") from error
    found = hashlib.sha256(data).hexdigest()
    if found != part["sha256"]:
        raise ValueError(
            f"{name} has sha256 {found}, manifest.json says {part['sha256']}: it is damaged or "
            "of another build"
        )
    table = _parse_part(data, name, rows=part["rows"])
    IndexChecker(table, manifest=manifest, name=name).check()
    return table


def _parse_part(data: bytes, name: str, *, rows: int) -> pa.Table:
    """Return the known columns of a Parquet file, if it has so many rows and bounded content."""
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        if file.metadata.num_rows != rows:
            found = file.metadata.num_rows
            raise ValueError(f"{name} has {found} rows; manifest.json says {rows}")
        _check_columns(file.schema_arrow, name)
        _check_values(file.metadata, data, name)
        return file.read(columns=INDEX_SCHEMA.names).select(INDEX_SCHEMA.names)
    except (pa.ArrowException, OSError) as error:
        problem = " ".join(str(error).split())
        raise ValueError(f"{name} is not a Parquet file: {problem}") from error


def _check_columns(schema: pa.Schema, name: str) -> None:
    """Raise ValueError unless an index has the columns of `INDEX_SCHEMA`; others are ignored."""
    for wanted in INDEX_SCHEMA:
        fields = schema.get_all_field_indices(wanted.name)
        found = schema.field(fields[0]).type if fields else "missing"
        if len(fields) > 1:
            found = f"there {len(fields)} times"
        if found != wanted.type:
            raise ValueError(f"{name}: the column {wanted.name!r} is {found}, wanted {wanted.type}")


def _check_values(metadata: pq.FileMetaData, data: bytes, name: str) -> None:
    """Raise ValueError where a small file would become a large table.

    A value that repeats costs a Parquet file nothing, and a table its whole size.
    """
    for what, found in (("columns", metadata.num_columns), ("groups", metadata.num_row_groups)):
        if found > MAX_CHUNKS:
            raise ValueError(f"{name} has {found} {what}, wanted at most {MAX_CHUNKS}")
    most = metadata.num_rows * VALUES_PER_ROW + VALUES_PER_ROW
    large = []
    for number in range(metadata.num_columns):
        chunks = [
            metadata.row_group(group).column(number) for group in range(metadata.num_row_groups)
        ]
        path = metadata.schema.column(number).path
        num_values = sum(chunk.num_values for chunk in chunks)
        if num_values > most:
            raise ValueError(f"{name}: {path} has {num_values} values, wanted at most {most}")
        if path in TEXT_PATHS:
            unpacked = sum(chunk.total_uncompressed_size for chunk in chunks)
            large += [path] if num_values * unpacked > MAX_TEXT_BYTES else []
    for path in large:
        file = pq.ParquetFile(pa.BufferReader(data), read_dictionary=[path])
        found = _text_bytes(file.read(columns=[path])[0])
        if found > MAX_TEXT_BYTES:
            raise ValueError(
                f"{name}: {path} has {found} bytes of text, wanted at most {MAX_TEXT_BYTES}"
            )


def _text_bytes(column: pa.ChunkedArray) -> int:
    """Return how many bytes the strings of a column take, which holds each string once."""
    total = 0
    for chunk in column.chunks:
        texts = chunk
        while not pa.types.is_dictionary(texts.type):
            texts = texts.flatten() if pa.types.is_list(texts.type) else texts.field("name")
        lengths = pc.binary_length(texts.dictionary).to_numpy().astype(np.int64)
        total += int(lengths[texts.indices.drop_null().to_numpy()].sum())
    return total


COUNTS = {
    "records": "num_records",
    "rounds": "num_rounds",
    "images": "num_images",
    "text_tokens": "text_tokens",
    "supervised_tokens": "supervised_tokens",
    "bytes": "bytes",
}
"""Statistic -> the index column that it sums; `bytes` is computed from the members."""


def statistics(index: pa.Table, *, by: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return counts of samples, records, rounds, images, tokens and bytes per group of rows.

    `text_tokens` excludes slots; `bytes` are those of the members, without tar headers and padding.

    Args:
        index: Index rows.
        by: Columns whose equal values make a group; groups are sorted. Without it there is one.
    """
    columns = {name: index[name].cast(pa.string()) for name in by}
    columns |= {name: index[name] for name in COUNTS.values() if name != "bytes"}
    columns["bytes"] = pa.array(sample_bytes(index))
    columns["samples"] = pa.array(np.ones(index.num_rows, dtype=np.int64))
    sums = {"samples": "samples", **COUNTS}
    totals = (
        pa.table(columns)
        .group_by(list(by))
        .aggregate([(column, "sum") for column in sums.values()])
        .sort_by([(name, "ascending") for name in by] or [("samples_sum", "ascending")])
    )
    return [
        {name: row[name] for name in by}
        | {name: row[f"{column}_sum"] or 0 for name, column in sums.items()}
        for row in totals.to_pylist()
    ]


def sample_bytes(index: pa.Table) -> NDArray[np.int64]:
    """Return int64[N]: the total bytes of each sample's members."""
    lists = index["members"].combine_chunks()
    sizes = lists.flatten().field("size").to_numpy().astype(np.int64)
    of_samples = offsets_from_counts(lists.value_lengths().to_numpy())
    return np.diff(offsets_from_counts(sizes)[of_samples])
