"""Convert one source into staged Parquet records, with every entry accounted for.

Input: a source and the folder of its data. Output: a Parquet file of records in annotation order,
and the counts of the entries that gave none. Conversion rejects what the annotation or an image's
header shows; what only decoding or tokenizing shows is rejected when a shard is written. Memory
does not depend on the size of the source, apart from some 100 bytes per key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

import xxhash

from vchat.base.files import write_atomically
from vchat.base.json_text import is_unicode
from vchat.prep.convert.lookups import Lookups, hold_still, open_lookups
from vchat.prep.convert.staged import row_from_record, write_staged
from vchat.prep.raw.data_path import DataPath, RemotePath, version_of
from vchat.prep.raw.identity import Identity, key_of_digest, key_of_place, kind_of_key
from vchat.prep.raw.image_files import ImageFiles
from vchat.prep.raw.lookahead import with_prefetch
from vchat.prep.raw.rejected import ConversionCounts, Rejected, reject_bad_pictures
from vchat.prep.sources.image_names import key_of_path
from vchat.prep.sources.source import Converted, Entry, Source, annotation_files, image_paths
from vchat.shards.format.record import ImageRef, Record
from vchat.shards.pixels.upright import check_size_to_store

RESCALED = "rescaled"
"""Mark of a record with a picture of more than 8 bits per value, see `shards.pixels.levels`."""

STAGED_VERSION = 8
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
    """`ConversionCounts.as_json` of the conversion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """What a build's images must meet, as far as their headers show it."""

    image_size: int
    """Shorter side to which images are reduced, in pixels: an image that would be stored beyond the
    limits of a shard is rejected by its header."""

    max_images: int | None = None
    """Limit to which the records of a source that may leave out images are brought; None for no
    limit."""


def convert_source(
    source: Source,
    *,
    data: DataPath,
    images: ImageFiles,
    work: Path,
    limits: ImageLimits,
    on_entry: Callable[[], None],
) -> StagedSource:
    """Convert one source, or return what an earlier call with equal inputs left in `work`.

    Args:
        source: What reads the annotation files.
        data: Folder of its data.
        images: Finds and reads its images.
        work: Folder of staged files and of the indexes that sources store; a file in it is whole,
            and named by its inputs.
        limits: Of the build; `max_images` applies only to a source that may leave out images.
        on_entry: Called once per entry read, for progress.

    Raises:
        ValueError: An annotation file is not whole JSON or has no entries, or entries are lost.
    """
    if not source.may_leave_out_images:
        limits = replace(limits, max_images=None)
    inputs = inputs_digest(source, data=data, limits=limits, identity=images.identity)
    name = f"{source.name}-{inputs[:16]}"
    path, summary = work / f"{name}.parquet", work / f"{name}.json"
    looked_up = work / f"{name}.lookups.parquet"
    if not (summary.exists() and path.exists() and hold_still(looked_up, images)):
        for old in (summary, path.with_suffix(".arrow")):
            old.unlink(missing_ok=True)
        entries = _count_entries(source.read(data, index_folder=work), on_entry)
        with open_lookups(looked_up, images) as lookups:
            staging = _Staging(images=images, limits=limits, lookups=lookups)
            counts, digest = _write_records(entries, staging, path)
        _check_counts(counts, source, data)
        content = {"source": source.name, "digest": digest, "tally": counts.as_json()}
        with write_atomically(summary) as file:
            file.write(json.dumps(content, indent=1).encode())
    found = json.loads(summary.read_text(encoding="utf-8"))
    return StagedSource(source=source.name, path=path, digest=found["digest"], tally=found["tally"])


def inputs_digest(
    source: Source, *, data: DataPath, limits: ImageLimits, identity: Identity | None
) -> str:
    """Return a digest of what a conversion depends on, without reading any image.

    It covers the contents of the annotation files (in object storage, their ETags), and when the
    image folders last changed. What is found for each picture is checked by `lookups`.
    """
    settings = (
        *(STAGED_VERSION, source.name, source.splits, limits.max_images, limits.image_size),
        identity or "",
    )
    hasher = xxhash.xxh3_128(" ".join(map(str, settings)).encode())
    for path in annotation_files(source, data):
        hasher.update(f" {path.name} ".encode())
        if isinstance(path, RemotePath):
            hasher.update(path.version().encode())
            continue
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                hasher.update(chunk)
    for path in image_paths(source, data):
        hasher.update(f" {version_of(path)} ".encode())
    return hasher.hexdigest()


def _count_entries(entries: Iterator[Entry], on_entry: Callable[[], None]) -> Iterator[Entry]:
    for entry in entries:
        on_entry()
        yield entry


def _check_counts(counts: ConversionCounts, source: Source, data: DataPath) -> None:
    if not counts.rows:
        files = ", ".join(str(file) for file in annotation_files(source, data))
        raise ValueError(f"{source.name}: no rows in {files}: is it the file of another data set?")
    counts.check(source.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Staging:
    """How the records of one source are staged."""

    images: ImageFiles
    limits: ImageLimits
    lookups: Lookups


def _write_records(
    entries: Iterator[Entry], staging: _Staging, path: Path
) -> tuple[ConversionCounts, str]:
    """Write the staged file; return the counts and the digest of the records."""
    counts, hasher = ConversionCounts(), hashlib.sha256()
    rows = _make_rows(entries, staging, counts=counts)
    write_staged(path, _hash_rows(rows, hasher.update))
    return counts, hasher.hexdigest()


def _hash_rows(
    rows: Iterator[dict[str, Any]], update: Callable[[bytes], None]
) -> Iterator[dict[str, Any]]:
    for row in rows:
        update(json.dumps(_hashed_content(row), sort_keys=True).encode() + b"\n")
        yield row


def _hashed_content(row: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a row that its digest covers.

    Digests of pictures are left out: a plan holds what they decide. Fields of format version 3 are
    left out where they say nothing, so that records without them keep their digest.
    """
    kept = {name: value for name, value in row.items() if name != "image_digests"}
    if kept["system"] is None:
        del kept["system"]
    kept["rounds"] = [_hashed_round(one) for one in row["rounds"]]
    return kept


def _hashed_round(one: dict[str, Any]) -> dict[str, Any]:
    kept = dict(one)
    kept["images"] = [
        {name: value for name, value in image.items() if name != "digest"}
        for image in one["images"]
    ]
    if not one["places"]:
        del kept["places"]
    if one["supervised"]:
        del kept["supervised"]
    return kept


def _make_rows(
    entries: Iterator[Entry], staging: _Staging, *, counts: ConversionCounts
) -> Iterator[dict[str, Any]]:
    """Yield the staged rows of the usable records; count every entry in `counts`."""
    images, limits = staging.images, staging.limits
    outcomes = with_prefetch(
        _convert_entries(entries, max_images=limits.max_images),
        lambda outcome: images.prefetch_headers(outcome.images),
        depth=4 * images.prefetch_depth,
    )
    for outcome in outcomes:
        entry, converted = outcome.entry, outcome.converted
        counts.rows += 1
        counts.pairs += entry.num_pairs
        try:
            if isinstance(converted, Rejected):
                raise converted
            record = subsample_images(converted.record, max_images=limits.max_images)
            staging.lookups.note(record.images)
            row = _to_staged_row(record, images, image_size=limits.image_size)
        except Rejected as rejected:
            counts.rejected.add(rejected, where=entry.id, num_pairs=entry.num_pairs)
            continue
        counts.records += 1
        counts.record_pairs += len(converted.record.rounds)
        counts.leave_out(converted.rejected_pairs, where=entry.id)
        counts.repairs.update(converted.repairs)
        counts.marks.update(row["marks"])
        _count_identities(counts, row)
        yield row


def _count_identities(counts: ConversionCounts, row: dict[str, Any]) -> None:
    kinds = [kind_of_key(key) for key in row["image_keys"]]
    counts.identity.update(kinds)
    counts.compared.update(compress(kinds, row["image_digests"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """An entry, and what its annotation alone makes of it."""

    entry: Entry
    converted: Converted | Rejected
    images: tuple[ImageRef, ...] = ()
    """Images whose headers will be read."""


def _convert_entries(entries: Iterator[Entry], *, max_images: int | None) -> Iterator[_Outcome]:
    """Yield the outcome of every entry, in order."""
    seen: set[bytes] = set()
    for entry in entries:
        try:
            converted = entry.convert()
            _check_key(converted.record, seen)
        except Rejected as rejected:
            yield _Outcome(entry=entry, converted=rejected)
        else:
            images = subsample_images(converted.record, max_images=max_images).images
            yield _Outcome(entry=entry, converted=converted, images=images)


def subsample_images(record: Record, *, max_images: int | None) -> Record:
    """Return the record with an even choice of at most `max_images`, first and last among them.

    A record that loses images is marked with how many it had. None is no limit.
    """
    total = len(record.images)
    if max_images is None or total <= max_images:
        return record
    chosen = {i * (total - 1) // max(1, max_images - 1) for i in range(max_images)}
    rounds, start = [], 0
    for round_ in record.rounds:
        numbered = enumerate(round_.images, start=start)
        kept = [place for place, (number, _) in enumerate(numbered) if number in chosen]
        images = tuple(round_.images[i] for i in kept)
        places = tuple(round_.places[i] for i in kept) if round_.places else ()
        rounds.append(replace(round_, images=images, places=places))
        start += len(round_.images)
    marks = (*record.marks, f"subsampled_from_{total}")
    return replace(record, rounds=tuple(rounds), marks=marks)


def _check_key(record: Record, seen: set[bytes]) -> None:
    if not is_unicode(record.key):
        raise Rejected("bad_id", f"id {record.record_id!a} is not valid Unicode")
    digest = xxhash.xxh3_128_digest(record.key.encode())
    if digest in seen:
        raise Rejected("duplicate", f"a record {record.key} came before")
    seen.add(digest)


def _to_staged_row(record: Record, images: ImageFiles, *, image_size: int) -> dict[str, Any]:
    """Return the staged row, with every image found, named, and its header checked."""
    located = {image: images.locate(image) for image in record.images}
    examined = {image: images.examine(found) for image, found in located.items()}
    for image in record.images:
        with reject_bad_pictures():
            size = examined[image].header.size
            check_size_to_store(size, shorter_side=image_size, name=image.file)
    named = {
        image: _name_image(image, located[image], examined[image].digest, images)
        for image in located
    }
    headers = [examined[image].header for image in record.images]
    if any(header.is_rescaled for header in headers):
        record = replace(record, marks=(*record.marks, RESCALED))
    rounds = tuple(
        replace(round_, images=tuple(named[image] for image in round_.images))
        for round_ in record.rounds
    )
    return row_from_record(
        replace(record, rounds=rounds),
        sizes=[header.size for header in headers],
        image_bytes=sum(header.num_bytes for header in headers),
    )


def _name_image(image: ImageRef, located: ImageRef, digest: str, images: ImageFiles) -> ImageRef:
    """Return the located reference with its digest, and with a key if its source gives none."""
    key = located.key
    if not key and digest:
        key = key_of_digest(digest)
    elif not key:
        place = images.place_of(located, file=image.file)
        key = key_of_path(place) or key_of_place(place)
    return replace(located, key=key, digest=digest)
