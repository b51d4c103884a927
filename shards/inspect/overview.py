"""What is in a shard set and whether its files are there: for a terminal, a page, or a script."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vchat.base.files import sha256_file
from vchat.shards.format.index import statistics
from vchat.shards.format.sample import Sample
from vchat.shards.format.shard_set import ShardSet
from vchat.shards.storage.store import ShardError
from vchat.shards.text.tokenizer import TextTokenizer

MOST_TOKENS_PER_CHARACTER = 8
"""Ids that are bytes of one character are shown as one piece, up to this many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defect:
    """One thing that is not as the manifest or the index says."""

    file: str
    """Relative to the shard set."""

    sample: str = ""
    """Stem and key, if the defect is inside one."""

    what: str
    found: str
    wanted: str

    def __str__(self) -> str:
        """One line: where, what, found, wanted."""
        place = f"{self.file}, sample {self.sample}" if self.sample else self.file
        return f"{place}: {self.what}: found {self.found}, wanted {self.wanted}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSpan:
    """Neighbouring ids of one kind: an image slot, or text with or without loss."""

    image: int | None
    """Position of the image in the sample, for a slot."""

    supervised: bool
    pieces: tuple[str, ...]
    """The text, token by token; joined it is what the ids decode to."""

    @property
    def text(self) -> str:
        """The text of all its ids."""
        return "".join(self.pieces)


def missing_files(shards: ShardSet) -> Iterator[Defect]:
    """Yield what is absent, a shard of the wrong size, a damaged index; opens no shard.

    `verification.verify` reads everything.
    """
    for shard in shards.manifest["shards"]:
        yield from _size_defect(shards, shard["name"], shard["bytes"])
    for part in shards.manifest["index"]:
        yield from _index_defect(shards, part)
    for name in ("tokenizer.json", "tokenizer_config.json", "fingerprint.json"):
        if not (shards.folder / "tokenizer" / name).is_file():
            yield Defect(file=f"tokenizer/{name}", what="file", found="nothing", wanted="a file")


def _size_defect(shards: ShardSet, name: str, size: int) -> Iterator[Defect]:
    try:
        found = shards.store.size(name)
    except ShardError:
        yield Defect(file=name, what="file", found="nothing", wanted=f"{size} bytes")
        return
    if found != size:
        yield Defect(file=name, what="size", found=f"{found} bytes", wanted=f"{size} bytes")


def _index_defect(shards: ShardSet, part: dict[str, Any]) -> Iterator[Defect]:
    name = f"index/{part['name']}"
    try:
        found = sha256_file(shards.folder / name)
    except FileNotFoundError:
        yield Defect(file=name, what="file", found="nothing", wanted=f"{part['rows']} rows")
        return
    if found != part["sha256"]:
        yield Defect(file=name, what="sha256", found=found, wanted=part["sha256"])


def overview(shards: ShardSet, *, split: str | None, source: str | None) -> dict[str, Any]:
    """Return what `inspect --json` prints: statistics per source and split, and integrity.

    Statistics are None where the index cannot be read; `defects` then says why.
    """
    defects = list(missing_files(shards))
    manifest = shards.manifest
    index_is_whole = not any(defect.file.startswith("index/") for defect in defects)
    rows = select_samples(shards, split=split, source=source) if index_is_whole else None
    return {
        "name": shards.name,
        "format_version": manifest["format_version"],
        "template": manifest["template"]["name"],
        "tokenizer": manifest["tokenizer"],
        "max_tokens": manifest.get("max_tokens"),
        "positions_per_image": manifest.get("positions_per_image"),
        "image": manifest.get("image"),
        "licences": manifest.get("licences"),
        "num_shards": len(manifest["shards"]),
        "shard_bytes": sum(shard["bytes"] for shard in manifest["shards"]),
        "groups": None if rows is None else statistics(rows, by=["source", "split"]),
        "totals": None if rows is None else totals(rows),
        "defects": [str(defect) for defect in defects],
    }


def totals(rows: pa.Table) -> dict[str, Any] | None:
    """Return the statistics of all rows together, None if there are none."""
    return statistics(rows)[0] if rows.num_rows else None


def select_samples(shards: ShardSet, *, split: str | None, source: str | None) -> pa.Table:
    """Return the index rows of a split and a source; None means all.

    Raises:
        ValueError: There is no such split or source; names those there are.
    """
    index = shards.index(split)
    if source is None:
        return index
    if source not in shards.manifest["sources"]:
        there = ", ".join(shards.manifest["sources"])
        raise ValueError(f"no source {source!r} in {shards.folder}; it has {there}")
    return index.filter(pc.equal(index["source"].cast(pa.string()), source))


def row_at(rows: pa.Table, number: int) -> dict[str, Any]:
    """Return one row as a dictionary.

    Raises:
        ValueError: There are not so many.
    """
    if not 0 <= number < rows.num_rows:
        raise ValueError(f"no sample {number}; there are {rows.num_rows}, numbered from 0")
    row: dict[str, Any] = rows.slice(number, 1).to_pylist()[0]
    return row


def token_spans(sample: Sample, tokenizer: TextTokenizer) -> list[TokenSpan]:
    """Return the sample's ids as text and slots, in order: exactly what the model reads."""
    found = []
    kinds = zip(sample.ids.tolist(), sample.supervised.tolist(), strict=True)
    images = iter(range(len(sample.ids)))
    for (is_slot, supervised), group in groupby(
        kinds, key=lambda pair: (pair[0] == tokenizer.image_id, pair[1])
    ):
        ids = [token for token, _ in group]
        if is_slot:
            found += [TokenSpan(image=next(images), supervised=supervised, pieces=()) for _ in ids]
        else:
            pieces = tuple(_pieces(ids, tokenizer))
            found.append(TokenSpan(image=None, supervised=supervised, pieces=pieces))
    return found


def _pieces(ids: Sequence[int], tokenizer: TextTokenizer) -> list[str]:
    """Return the text of each id; ids that are bytes of one character give one piece."""
    pieces: list[str] = []
    waiting: list[int] = []
    for token in ids:
        waiting.append(token)
        text = tokenizer.decode(waiting)
        if "\ufffd" not in text or len(waiting) == MOST_TOKENS_PER_CHARACTER:
            pieces.append(text)
            waiting = []
    if waiting:
        pieces.append(tokenizer.decode(waiting))
    whole = tokenizer.decode(ids)
    return pieces if "".join(pieces) == whole else [whole]


def escape_controls(text: str) -> str:
    """Return text with its control characters as pictures, so that none reaches a terminal."""
    return text.translate(_PICTURES)


_PICTURES = {
    code: 0x2400 + code if code < 0x20 else 0x2421
    for code in (*range(0x20), 0x7F)
    if chr(code) not in "\n\t"
} | dict.fromkeys(range(128, 160), 65533)
