"""One source -> staged Parquet records, every row accounted for.

Input: a source and the folder of its data. Output: a Parquet file of records in annotation order
and a tally of the rows that gave none. Rejected here is what the annotation or an image's header
shows; what only decoding or tokenizing shows is rejected when a shard is written. Memory does not
depend on the size of the source, apart from some 100 bytes per key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import xxhash

from vchat.base.files import write_atomically
from vchat.prep.convert.staged import row_from_record, write_staged
from vchat.prep.raw.data_path import DataPath, RemotePath, version_of
from vchat.prep.raw.image_files import ImageFiles
from vchat.prep.raw.lookahead import with_prefetch
from vchat.prep.raw.rejected import ConversionCounts, Rejected, reject_bad_pictures
from vchat.prep.sources.source import Converted, Entry, Source, annotation_files, image_paths
from vchat.shards.format.record import ImageRef, Record
from vchat.shards.pixels.upright import check_size_to_store

STAGED_VERSION = 5
"""Raised whenever a converter or the staged form changes what it makes of equal inputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedSource:
    """A converted source."""

    source: str
    path: Path
    """Parquet file of its records."""

    digest: str
    """SHA-256 over the records: equal digests mean equal records in equal order."""

    tally: dict[str, Any]
    """`Tally.as_json` of the conversion."""


def convert_source(
    source: Source,
    *,
    data: DataPath,
    images: ImageFiles,
    work: Path,
    image_size: int,
    max_images: int | None = None,
    on_entry: Callable[[], None],
) -> StagedSource:
    """Convert one source, or return what an earlier call with equal inputs left in `work`.

    Args:
        work: folder of staged files and of what sources keep; a file in it is whole, and named by
            its inputs.
        image_size: the shorter side to which images are made smaller, in pixels: a picture that
            would be stored beyond the limits of a shard is rejected by its header.
        max_images: limit to which a source that may leave out images is brought; None for no limit.
        on_entry: called once per row read, for progress.

    Raises:
        ValueError: if an annotation file is not whole JSON, has no rows, or rows are lost.
    """
    most = max_images if source.may_leave_out_images else None
    digest = inputs_digest(source, data=data, image_size=image_size, max_images=most)
    name = f"{source.name}-{digest[:16]}"
    path, summary = work / f"{name}.parquet", work / f"{name}.json"
    if not (summary.exists() and path.exists()):
        rows = _count_entries(source.read(data, index_folder=work), on_entry)
        tally, digest = _write_records(
            source, rows, data=data, images=images, path=path, most=most, image_size=image_size
        )
        content = {"source": source.name, "digest": digest, "tally": tally.as_json()}
        with write_atomically(summary) as file:
            file.write(json.dumps(content, indent=1).encode())
    found = json.loads(summary.read_text(encoding="utf-8"))
    return StagedSource(source=source.name, path=path, digest=found["digest"], tally=found["tally"])


def inputs_digest(
    source: Source, *, data: DataPath, image_size: int, max_images: int | None
) -> str:
    """Return a digest of what a conversion depends on, without reading any image.

    It covers the contents of the annotation files (in object storage, their ETags), and when images
    last changed.
    """
    hasher = xxhash.xxh3_128(
        f"{STAGED_VERSION} {source.name} {source.splits} {max_images} {image_size}".encode()
    )
    for path in annotation_files(source, data):
        hasher.update(f" {path.name} ".encode())
        if isinstance(path, RemotePath):
            hasher.update(path.version().encode())
            continue
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                hasher.update(chunk)
    for place in image_paths(source, data):
        hasher.update(f" {version_of(place)} ".encode())
    return hasher.hexdigest()


def _count_entries(entries: Iterator[Entry], on_entry: Callable[[], None]) -> Iterator[Entry]:
    for row in entries:
        on_entry()
        yield row


def _write_records(
    source: Source,
    entries: Iterator[Entry],
    *,
    data: DataPath,
    images: ImageFiles,
    path: Path,
    most: int | None,
    image_size: int,
) -> tuple[ConversionCounts, str]:
    tally, hasher = ConversionCounts(), hashlib.sha256()
    records = _records(entries, tally=tally, images=images, most=most, image_size=image_size)
    write_staged(path, _hash_rows(records, hasher.update))
    if not tally.rows:
        files = ", ".join(str(file) for file in annotation_files(source, data))
        raise ValueError(f"{source.name}: no rows in {files}: is it the file of another data set?")
    tally.check(source.name)
    return tally, hasher.hexdigest()


def _hash_rows(
    rows: Iterator[dict[str, Any]], update: Callable[[bytes], None]
) -> Iterator[dict[str, Any]]:
    for row in rows:
        update(json.dumps(row, sort_keys=True).encode() + b"\n")
        yield row


def _records(
    entries: Iterator[Entry],
    *,
    tally: ConversionCounts,
    images: ImageFiles,
    most: int | None,
    image_size: int,
) -> Iterator[dict[str, Any]]:
    """Yield staged rows of the usable records; count everything in `tally`."""
    outcomes = with_prefetch(
        _convert_entries(entries, most=most),
        lambda one: images.prefetch_headers(one.images),
        depth=4 * images.prefetch_depth,
    )
    for one in outcomes:
        row, converted = one.entry, one.converted
        tally.rows += 1
        tally.pairs += row.num_pairs
        try:
            if isinstance(converted, Rejected):
                raise converted
            record = subsample_images(converted.record, max_images=most)
            found = _to_staged_row(record, images, image_size=image_size)
        except Rejected as rejected:
            tally.rejected.add(rejected, where=row.id, num_pairs=row.num_pairs)
            continue
        tally.records += 1
        tally.record_pairs += len(converted.record.rounds)
        tally.leave_out(converted.rejected_pairs, where=row.id)
        tally.repairs.update(converted.repairs)
        tally.marks.update(record.marks)
        yield found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """A row, and what its annotation alone makes of it."""

    entry: Entry
    converted: Converted | Rejected
    images: tuple[ImageRef, ...] = ()
    """Those whose headers will be wanted."""


def _convert_entries(entries: Iterator[Entry], *, most: int | None) -> Iterator[_Outcome]:
    """Yield the outcome of every row, in order."""
    seen: set[bytes] = set()
    for row in entries:
        try:
            converted = row.convert()
            _check_key(converted.record, seen)
        except Rejected as rejected:
            yield _Outcome(entry=row, converted=rejected)
        else:
            images = subsample_images(converted.record, max_images=most).images
            yield _Outcome(entry=row, converted=converted, images=images)


def subsample_images(record: Record, *, max_images: int | None) -> Record:
    """Return the record with an even choice of at most `most` images, first and last among them.

    A record that is left shorter is marked with how many images it had. None is no limit.
    """
    total = len(record.images)
    if max_images is None or total <= max_images:
        return record
    kept = {i * (total - 1) // max(1, max_images - 1) for i in range(max_images)}
    rounds, shown = [], 0
    for round_ in record.rounds:
        numbered = enumerate(round_.images, start=shown)
        images = tuple(image for number, image in numbered if number in kept)
        rounds.append(replace(round_, images=images))
        shown += len(round_.images)
    marks = (*record.marks, f"subsampled_from_{total}")
    return replace(record, rounds=tuple(rounds), marks=marks)


def _check_key(record: Record, seen: set[bytes]) -> None:
    try:
        digest = xxhash.xxh3_128_digest(record.key.encode())
    except UnicodeEncodeError as err:
        raise Rejected("bad_id", f"id {record.record_id!a} is not valid Unicode") from err
    if digest in seen:
        raise Rejected("duplicate", f"a record {record.key} came before")
    seen.add(digest)


def _to_staged_row(record: Record, images: ImageFiles, *, image_size: int) -> dict[str, Any]:
    """Return the staged row, every image found and its header checked."""
    located = {image: images.locate(image) for image in record.images}
    if any(image is not found for image, found in located.items()):
        rounds = tuple(
            replace(round_, images=tuple(located[image] for image in round_.images))
            for round_ in record.rounds
        )
        record = replace(record, rounds=rounds)
    headers = [images.header(image) for image in record.images]
    for image, header in zip(record.images, headers, strict=True):
        with reject_bad_pictures():
            check_size_to_store(header.size, shorter_side=image_size, name=image.file)
    return row_from_record(
        record,
        sizes=[header.size for header in headers],
        image_bytes=sum(header.num_bytes for header in headers),
    )
