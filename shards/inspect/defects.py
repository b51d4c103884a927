"""Whether the files of a shard set are there and as large as they should be; opens no shard."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vchat.base.safe_paths import read_regular
from vchat.base.terminal_text import one_line
from vchat.shards.format.index import MAX_PART_BYTES
from vchat.shards.format.shard_set import ShardSet
from vchat.shards.storage.store import MissingError, ShardError
from vchat.shards.text.tokenizer import MAX_TOKENIZER_BYTES, TOKENIZER_FILES

MAX_SHOWN_CHARACTERS = 80
"""Characters of a value that a defect shows."""


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
        return one_line(f"{location}: {self.what}: found {self.found}, wanted {self.wanted}")


def missing_files(shards: ShardSet) -> Iterator[Defect]:
    """Yield what is absent, a shard of the wrong size, a damaged index; opens no shard.

    `verification.verify` reads everything.
    """
    for shard in shards.manifest["shards"]:
        yield from _size_defect(shards, shard["name"], shard["bytes"])
    for part in shards.manifest["index"]:
        yield from _index_defect(shards, part)
    for name in TOKENIZER_FILES:
        yield from _tokenizer_defect(shards, f"tokenizer/{name}")


def _size_defect(shards: ShardSet, name: str, size: int) -> Iterator[Defect]:
    try:
        found = shards.store.size(name)
    except MissingError:
        yield Defect(file=name, what="file", found="nothing", wanted=f"{size} bytes")
    except ShardError as error:
        yield Defect(file=name, what="file", found=error.problem, wanted=f"{size} bytes")
    else:
        if found != size:
            yield Defect(file=name, what="size", found=f"{found} bytes", wanted=f"{size} bytes")


def _index_defect(shards: ShardSet, part: dict[str, Any]) -> Iterator[Defect]:
    name, wanted = f"index/{part['name']}", f"{part['rows']} rows"
    try:
        data = read_regular(shards.folder, name, max_bytes=MAX_PART_BYTES)
    except FileNotFoundError:
        yield Defect(file=name, what="file", found="nothing", wanted=wanted)
    except (OSError, ValueError) as error:
        yield Defect(file=name, what="file", found=str(error), wanted=wanted)
    else:
        found = hashlib.sha256(data).hexdigest()
        if found != part["sha256"]:
            yield Defect(file=name, what="sha256", found=found, wanted=part["sha256"])


def _tokenizer_defect(shards: ShardSet, name: str) -> Iterator[Defect]:
    try:
        read_regular(shards.folder, name, max_bytes=MAX_TOKENIZER_BYTES)
    except FileNotFoundError:
        yield Defect(file=name, what="file", found="nothing", wanted="a file")
    except (OSError, ValueError) as error:
        yield Defect(file=name, what="file", found=str(error), wanted="a plain file")


def compare(
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
