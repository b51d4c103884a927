"""Reads a whole shard set and lists every defect: files, index against tar, ids against text.

Readers trust the index, so each tar is read without it and then compared with it. Training trusts
the token ids, so they are decoded and compared with the stored rounds.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import IO, Any

import pyarrow.compute as pc
import xxhash
from PIL import Image

from vchat.base.files import sha256_of
from vchat.shards.format.index import index_row, statistics
from vchat.shards.format.manifest import index_digest
from vchat.shards.format.sample import Sample, decode_sample
from vchat.shards.format.shard_set import ShardSet
from vchat.shards.inspect.defects import Defect, missing_files
from vchat.shards.pixels.limits import PictureError, check_stored_size
from vchat.shards.storage.store import MissingError
from vchat.shards.storage.store_file import open_store_file
from vchat.shards.text.tokenizer import TextTokenizer

IndexRow = dict[str, Any]
MAX_SHOWN_CHARACTERS = 80
"""Characters of a value that a defect shows."""


def find_defects(shards: ShardSet, *, shard_done: Callable[[int], None]) -> Iterator[Defect]:
    """Yield every defect of the set; none means that all of it is as the manifest says.

    Reads every byte (each shard twice) and holds one sample.

    Args:
        shards: the set.
        shard_done: called with 1 after each shard.
    """
    yield from missing_files(shards)
    yield from _unlisted_files(shards)
    yield from _digest_defects(shards)
    try:
        tokenizer = shards.tokenizer()
        end_id = tokenizer.special_id(shards.template.end)
        shards.index()
    except (ValueError, OSError) as error:
        yield Defect(
            file="manifest.json", what="opening", found=str(error), wanted="what it describes"
        )
        return
    yield from _total_defects(shards)
    for number in range(len(shards.manifest["shards"])):
        yield from _shard_defects(shards, number, tokenizer, end_id=end_id)
        shard_done(1)


def _unlisted_files(shards: ShardSet) -> Iterator[Defect]:
    listed = {shard["name"] for shard in shards.manifest["shards"]}
    for path in sorted(shards.folder.glob("*.tar")):
        if path.name not in listed:
            yield Defect(file=path.name, what="manifest.json", found="no entry", wanted="one")


def _digest_defects(shards: ShardSet) -> Iterator[Defect]:
    stated = shards.manifest["digests"]["index"]
    found = index_digest(shards.manifest["index"])
    yield from _compare(found, stated, file="manifest.json", what="index digest")


def _total_defects(shards: ShardSet) -> Iterator[Defect]:
    """Compare the totals of the manifest with those of the index."""
    index, stated = shards.index(), shards.manifest["totals"]
    for name, value in (statistics(index)[0] if index.num_rows else {}).items():
        yield from _compare(value, stated.get(name), file="manifest.json", what=f"total {name}")


def _shard_defects(
    shards: ShardSet, number: int, tokenizer: TextTokenizer, *, end_id: int
) -> Iterator[Defect]:
    """Compare one shard with its digest, and each of its samples with its index row."""
    shard = shards.manifest["shards"][number]
    name = shard["name"]
    try:
        with open_store_file(shards.store, name) as file:
            yield from _compare(sha256_of(file), shard["sha256"], file=name, what="sha256")
    except MissingError:
        return  # missing_files has listed it
    index = shards.index()
    rows = {r["stem"]: r for r in index.filter(pc.equal(index["shard"], number)).to_pylist()}
    yield from _compare(len(rows), shard["samples"], file=name, what="index rows")
    with open_store_file(shards.store, name) as file:
        try:
            for stem, stored in _stored_samples(file):
                row = rows.pop(stem, None)
                yield from _sample_defects(stem, stored, row, name, tokenizer, end_id=end_id)
        except tarfile.TarError as error:
            yield Defect(file=name, what="tar", found=str(error), wanted="a whole tar file")
    for row in rows.values():
        location = f"{row['stem']} ({row['key']})"
        yield Defect(
            file=name, sample=location, what="tar entries", found="none", wanted="a sample"
        )


def _stored_samples(file: IO[bytes]) -> Iterator[tuple[str, list[tuple[IndexRow, bytes]]]]:
    """Yield each stem with its entries: what an index would say about each, and its bytes."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for stem, entries in groupby(tar, key=lambda entry: entry.name.partition(".")[0]):
            stored = []
            for entry in entries:
                body = tar.extractfile(entry)
                data = body.read() if body is not None else b""
                located = {
                    "name": entry.name.partition(".")[2],
                    "offset": entry.offset_data,
                    "size": entry.size,
                    "xxh3": xxhash.xxh3_64_intdigest(data),
                }
                stored.append((located, data))
            yield stem, stored


def _sample_defects(
    stem: str,
    stored: list[tuple[IndexRow, bytes]],
    row: IndexRow | None,
    shard: str,
    tokenizer: TextTokenizer,
    *,
    end_id: int,
) -> Iterator[Defect]:
    """Compare one sample with its index row, then its ids with its images and rounds."""
    if row is None:
        yield Defect(file=shard, sample=stem, what="index row", found="none", wanted="one")
        return
    location = {"file": shard, "sample": f"{stem} ({row['key']})"}
    found = {located["name"]: located for located, _ in stored}
    wanted = {located["name"]: located for located in row["members"]}
    for member in sorted(found.keys() | wanted.keys()):
        what = f"member {member}"
        yield from _compare(found.get(member), wanted.get(member), **location, what=what)
    try:
        sample = decode_sample({m["name"]: data for m, data in stored}, name="sample")
    except ValueError as error:
        yield Defect(**location, what="members", found=str(error), wanted="a sample")
        return
    actual = index_row(sample, stem=stem, located=[])
    for column in actual.keys() - {"members"}:
        yield from _compare(actual[column], row[column], **location, what=f"index column {column}")
    yield from _image_defects(sample, location)
    yield from _token_defects(sample, location, tokenizer, end_id=end_id)


def _image_defects(sample: Sample, location: dict[str, str]) -> Iterator[Defect]:
    """Compare stated image sizes with those in the images' headers; decodes no pixels."""
    for number, image in enumerate(sample.images):
        what = f"size of image {number}"
        try:
            with Image.open(io.BytesIO(image.data)) as opened:
                yield from _compare(opened.size, image.size, **location, what=what)
                check_stored_size(opened.size, name="image")
        except PictureError as error:
            yield Defect(**location, what=what, found=str(error), wanted="what a reader decodes")
        except (OSError, Image.DecompressionBombError) as error:
            yield Defect(**location, what=what, found=str(error), wanted=str(image.size))


def _token_defects(
    sample: Sample, location: dict[str, str], tokenizer: TextTokenizer, *, end_id: int
) -> Iterator[Defect]:
    """Compare ids with the vocabulary, slots with images, supervised ids with answers."""
    slots = int((sample.ids == tokenizer.image_id).sum())
    yield from _compare(slots, len(sample.images), **location, what="number of <image> ids")
    in_range = bool(((sample.ids >= 0) & (sample.ids < tokenizer.num_ids)).all())
    if not in_range:
        found = f"{sample.ids.min()} to {sample.ids.max()}"
        yield Defect(**location, what="ids", found=found, wanted=f"0 to {tokenizer.num_ids - 1}")
        return
    answers = _supervised_texts(sample, tokenizer, end_id=end_id)
    with_loss = [(i, stored) for i, stored in enumerate(sample.rounds) if stored.supervised]
    yield from _compare(len(answers), len(with_loss), **location, what="supervised answers")
    for text, (number, stored) in zip(answers, with_loss, strict=False):
        end = tokenizer.decode([end_id])
        wanted = stored.answer + end
        if text != wanted and text != tokenizer.round_trip(stored.answer) + end:
            what = f"supervised text of round {number}"
            yield from _compare(text, wanted, **location, what=what)


def _supervised_texts(sample: Sample, tokenizer: TextTokenizer, *, end_id: int) -> list[str]:
    """Return the texts of the supervised ids, cut after each end token and at each interruption."""
    texts: list[str] = []
    ids: list[int] = []
    for token, supervised in zip(sample.ids.tolist(), sample.supervised.tolist(), strict=True):
        if supervised:
            ids.append(token)
        if ids and (not supervised or token == end_id):
            texts.append(tokenizer.decode(ids))
            ids = []
    return [*texts, tokenizer.decode(ids)] if ids else texts


def _compare(
    found: object, wanted: object, *, file: str, what: str, sample: str = ""
) -> Iterator[Defect]:
    """Yield a defect if the two differ, long texts cut to where they do."""
    if found == wanted:
        return
    first = 0
    if isinstance(found, str) and isinstance(wanted, str):
        pairs = enumerate(zip(found, wanted, strict=False))
        first = next((i for i, (a, b) in pairs if a != b), min(len(found), len(wanted)))
    yield Defect(
        file=file,
        sample=sample,
        what=what,
        found=_show_value(found, first),
        wanted=_show_value(wanted, first),
    )


def _show_value(value: object, first: int) -> str:
    """Return a value as text, cut so that the character at `first` is shown."""
    start = max(0, first - MAX_SHOWN_CHARACTERS // 2)
    if isinstance(value, str) and len(value) > MAX_SHOWN_CHARACTERS:
        return f"{value[start : start + MAX_SHOWN_CHARACTERS]!r} (from character {start})"
    return repr(value)
