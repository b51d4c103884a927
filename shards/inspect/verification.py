"""Reads a whole shard set and lists every defect: files, index against tar, ids against text.

Readers trust the index, so each tar is read without it and then compared with it. Training trusts
the token ids, so each text is encoded again and compared with them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from PIL import Image

from vchat.base.files import sha256_of
from vchat.shards.format.index import index_row, statistics
from vchat.shards.format.manifest import MANIFEST, index_digest
from vchat.shards.format.sample import Sample, decode_sample
from vchat.shards.format.shard_set import ShardSet
from vchat.shards.inspect.defects import Defect, compare, missing_files
from vchat.shards.inspect.tar_walk import BLOCK, TarMember, TarProblem, walk_tar
from vchat.shards.inspect.token_defects import TokenChecker
from vchat.shards.pixels.decode import FORMATS
from vchat.shards.pixels.header import DAMAGE
from vchat.shards.pixels.limits import PictureError, check_stored_size
from vchat.shards.storage.store import MissingError, ShardError
from vchat.shards.storage.store_file import open_store_file

IndexRow = dict[str, Any]
PART_BYTES = 1 << 20
STEMS_ARE_UNIQUE = 3
"""The format version from which a stem is unique in the set, not only in its split."""

FORMAT_OF_EXTENSION = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
_DESCRIBED = "what manifest.json describes"


def find_defects(shards: ShardSet, *, shard_done: Callable[[int], None]) -> Iterator[Defect]:
    """Yield every defect of the set; none means that all of it is as the manifest says.

    Reads every byte (each shard twice) and holds one sample. What cannot be read is a defect, and
    the rest is checked all the same.

    Args:
        shards: the set.
        shard_done: called with 1 after each shard.
    """
    yield from missing_files(shards)
    yield from _unlisted_files(shards)
    yield from _digest_defects(shards)
    opened = _Opened()
    yield from opened.open(shards)
    if opened.index is not None:
        yield from _total_defects(shards, opened.index)
        yield from _repeated_names(shards, opened.index)
    for number in range(len(shards.manifest["shards"])):
        yield from _shard_defects(shards, number, opened)
        shard_done(1)


class _Opened:
    """What the samples of a set are compared with; None where it cannot be read."""

    tokens: TokenChecker | None = None
    index: pa.Table | None = None

    def open(self, shards: ShardSet) -> Iterator[Defect]:
        """Open tokenizer, template and index; yield why one cannot be read."""
        try:
            self.tokens = TokenChecker(shards.template, shards.tokenizer())
        except (ValueError, OSError) as error:
            yield Defect(file="tokenizer", what="opening", found=str(error), wanted=_DESCRIBED)
        try:
            self.index = shards.index()
        except (ValueError, OSError) as error:
            yield Defect(file="index", what="opening", found=str(error), wanted=_DESCRIBED)


def _unlisted_files(shards: ShardSet) -> Iterator[Defect]:
    listed = {shard["name"] for shard in shards.manifest["shards"]}
    for path in sorted(shards.folder.glob("*.tar")):
        if path.name not in listed:
            yield Defect(file=path.name, what="manifest.json", found="no entry", wanted="one")


def _digest_defects(shards: ShardSet) -> Iterator[Defect]:
    digests = shards.manifest["digests"]
    found = index_digest(shards.manifest["index"])
    yield from compare(found, digests["index"], file=MANIFEST, what="index digest")
    found = shards.manifest["tokenizer"]["fingerprint"]
    yield from compare(found, digests["tokenizer"], file=MANIFEST, what="tokenizer.fingerprint")


def _total_defects(shards: ShardSet, index: pa.Table) -> Iterator[Defect]:
    """Compare the counts of the manifest with those of the index."""
    counts = [("total", statistics(index)[0], shards.manifest["totals"])] if index.num_rows else []
    by_source = {row.pop("source"): row for row in statistics(index, by=["source"])}
    stated = shards.manifest["sources"]
    yield from compare(sorted(stated), sorted(by_source), file=MANIFEST, what="sources")
    counts += [(name, one, stated.get(name, {})) for name, one in by_source.items()]
    for name, found, manifest in counts:
        for count, value in found.items():
            yield from compare(value, manifest.get(count), file=MANIFEST, what=f"{name} {count}")


def _repeated_names(shards: ShardSet, index: pa.Table) -> Iterator[Defect]:
    """Yield keys that several samples have, and stems that several of a split have."""
    in_split = shards.manifest["format_version"] < STEMS_ARE_UNIQUE
    for column, by in (("key", ["key"]), ("stem", ["split", "stem"] if in_split else ["stem"])):
        counts = index.select(by).group_by(by).aggregate([([], "count_all")])
        for row in counts.filter(pc.greater(counts["count_all"], 1)).to_pylist():
            what = f"{column} {row[column]!r}"
            yield Defect(file="index", what=what, found=f"{row['count_all']} times", wanted="once")


def _shard_defects(shards: ShardSet, number: int, opened: _Opened) -> Iterator[Defect]:
    """Compare one shard with its digest, and each of its samples with its index row."""
    shard = shards.manifest["shards"][number]
    name = shard["name"]
    try:
        with open_store_file(shards.store, name) as file:
            yield from compare(sha256_of(file), shard["sha256"], file=name, what="sha256")
        if opened.index is not None:
            rows = opened.index.filter(pc.equal(opened.index["shard"], number)).to_pylist()
            with open_store_file(shards.store, name) as file:
                num_bytes = shards.store.size(name)
                yield from _tar_defects(file, rows, opened, name=name, num_bytes=num_bytes)
    except MissingError:
        return  # missing_files has listed it
    except ShardError as error:
        yield Defect(file=name, what="reading", found=error.problem, wanted="its bytes")


def _tar_defects(
    file: IO[bytes], listed: list[IndexRow], opened: _Opened, *, name: str, num_bytes: int
) -> Iterator[Defect]:
    """Compare the samples in a tar with the rows of the index."""
    rows = {row["stem"]: row for row in listed}
    headers = sorted(m["offset"] - BLOCK for row in listed for m in row["members"])
    found = _Found()
    for one in walk_tar(file, num_bytes=num_bytes, headers=headers):
        if isinstance(one, TarProblem):
            where = f"{one.found} at byte {one.offset}"
            yield Defect(file=name, what="tar", found=where, wanted=one.wanted)
            if one.name and one.name.partition(".")[0] == found.stem:
                found = _Found()  # its row says that the sample is not there
            continue
        stem = one.name.partition(".")[0]
        if stem != found.stem:
            yield from _sample_defects(found, rows.pop(found.stem, None), opened, shard=name)
            found = _Found(stem=stem)
        found.add(file, one, row=rows.get(stem))
    yield from _sample_defects(found, rows.pop(found.stem, None), opened, shard=name)
    for row in rows.values():
        location = f"{row['stem']} ({row['key']})"
        yield Defect(
            file=name, sample=location, what="tar entries", found="none", wanted="a sample"
        )


class _Found:
    """The members of one sample as a tar has them."""

    def __init__(self, stem: str = ""):
        self.stem = stem
        self.located: dict[str, IndexRow] = {}
        """By name, what an index would say of each."""

        self.data: dict[str, bytes] = {}
        """Of members that are no larger than the index says; others are not held."""

    def add(self, file: IO[bytes], member: TarMember, *, row: IndexRow | None) -> None:
        """Read a member; its bytes are kept if the index promises so many."""
        name = member.name.partition(".")[2]
        promised = {one["name"]: one["size"] for one in row["members"]} if row else {}
        kept = io.BytesIO() if member.size <= promised.get(name, -1) else None
        checksum, left = xxhash.xxh3_64(), member.size
        file.seek(member.offset)
        while left and (part := file.read(min(left, PART_BYTES))):
            checksum.update(part)
            left -= len(part)
            if kept is not None:
                kept.write(part)
        self.located[name] = {
            "name": name,
            "offset": member.offset,
            "size": member.size,
            "xxh3": checksum.intdigest(),
        }
        if kept is not None:
            self.data[name] = kept.getvalue()


def _sample_defects(
    found: _Found, row: IndexRow | None, opened: _Opened, *, shard: str
) -> Iterator[Defect]:
    """Compare one sample with its index row, then its ids with its images and rounds."""
    if not found.located:
        return
    if row is None:
        yield Defect(file=shard, sample=found.stem, what="index row", found="none", wanted="one")
        return
    location = {"file": shard, "sample": f"{found.stem} ({row['key']})"}
    wanted = {located["name"]: located for located in row["members"]}
    for member in sorted(found.located.keys() | wanted.keys()):
        what = f"member {member}"
        yield from compare(found.located.get(member), wanted.get(member), **location, what=what)
    try:
        sample = decode_sample(found.data, name="sample")
    except ValueError as error:
        yield Defect(**location, what="members", found=str(error), wanted="a sample")
        return
    actual = index_row(sample, stem=found.stem, located=[])
    for column in sorted(actual.keys() - {"members"}):
        yield from compare(actual[column], row[column], **location, what=f"index column {column}")
    yield from _image_defects(sample, location)
    if opened.tokens is not None:
        yield from opened.tokens.defects(sample, location)


def _image_defects(sample: Sample, location: dict[str, str]) -> Iterator[Defect]:
    """Compare stated format and sizes with those in the images' headers; decodes no pixels."""
    for number, image in enumerate(sample.images):
        what = f"size of image {number}"
        try:
            with Image.open(io.BytesIO(image.data), formats=FORMATS) as opened:
                yield from compare(opened.size, image.size, **location, what=what)
                wanted = FORMAT_OF_EXTENSION[image.extension]
                kind = f"format of image {number}"
                yield from compare(opened.format, wanted, **location, what=kind)
                check_stored_size(opened.size, name="image")
        except PictureError as error:
            yield Defect(**location, what=what, found=str(error), wanted="what a reader decodes")
        except (*DAMAGE, Image.DecompressionBombError) as error:
            yield Defect(**location, what=what, found=str(error), wanted=str(image.size))
