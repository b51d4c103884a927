"""Whether the files of a shard set are there and as large as they should be; opens no shard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vchat.base.files import sha256_file
from vchat.shards.format.shard_set import ShardSet
from vchat.shards.storage.store import ShardError
from vchat.shards.text.tokenizer import TOKENIZER_FILES


@dataclass(frozen=True, slots=True, kw_only=True)
class Defect:
    """One thing that is not as the manifest or the index says."""

    file: str
    """Relative to the shard set."""

    sample: str = ""
    """Stem and key of the sample that has the defect, if one has."""

    what: str
    found: str
    wanted: str

    def __str__(self) -> str:
        """Return one line: where, what, found, wanted."""
        location = f"{self.file}, sample {self.sample}" if self.sample else self.file
        return f"{location}: {self.what}: found {self.found}, wanted {self.wanted}"


def missing_files(shards: ShardSet) -> Iterator[Defect]:
    """Yield what is absent, a shard of the wrong size, a damaged index; opens no shard.

    `verification.verify` reads everything.
    """
    for shard in shards.manifest["shards"]:
        yield from _size_defect(shards, shard["name"], shard["bytes"])
    for part in shards.manifest["index"]:
        yield from _index_defect(shards, part)
    for name in TOKENIZER_FILES:
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
