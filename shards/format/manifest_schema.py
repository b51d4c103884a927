"""The one schema of `manifest.json`: every field that a reader uses, checked before it is used.

A name is a name of FORMAT.md, a digest has 64 hexadecimal digits, a number is in its range. What
no reader uses (recipe, libraries, inputs) may hold anything that JSON can.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from vchat.base.checked_json import CheckedJson
from vchat.shards.text.tokenizer import TOKENIZER_FILES

REQUIRED_KEYS = ("digests", "template", "tokenizer", "totals", "sources", "shards", "index")
"""The fields that a reader uses; FORMAT.md lists the others."""

DIGEST = re.compile(r"[0-9a-f]{64}")
SPLIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
SHARD_NUMBER = re.compile(r"[0-9]{6,9}")
PART_NAME = re.compile(r"part-[0-9]{5}\.parquet")
READ_TOKENIZER_FILES = (*TOKENIZER_FILES, "special_tokens_map.json", "chat_template.jinja")
"""The files that are read of a tokenizer, if they are there."""

MAX_BYTES = 2**50
MAX_COUNT = 2**62
MAX_NUM_IDS = 2**24
MAX_SAMPLE_TOKENS = 2**27
"""Of one sample."""

MAX_IMAGE_POSITIONS = 2**17
MAX_ROWS_PER_PART = 200_000
MAX_SYSTEM = 2**20
"""Characters of a system text."""

MAX_LISTED = 10**6
"""Shards, or parts of an index."""

MAX_SHOWN = 1000
"""Defects of one manifest that are listed."""


class ManifestError(ValueError):
    """A manifest is not as FORMAT.md says; as text, the first of its defects."""

    def __init__(self, defects: Sequence[str]):
        """Keep the defects, one line each, at least one."""
        super().__init__(defects[0])
        self.defects = tuple(defects)

    def __reduce__(self) -> tuple[type[ManifestError], tuple[tuple[str, ...]]]:
        return ManifestError, (self.defects,)


def check_schema(manifest: CheckedJson, *, version: int) -> None:
    """Check that a manifest is as FORMAT.md says.

    Args:
        manifest: Of a version that is read here.
        version: Its `format_version`.

    Raises:
        ManifestError: With the first `MAX_SHOWN` defects, each naming its place.
    """
    absent = [name for name in REQUIRED_KEYS if name not in manifest.object()]
    if absent:
        raise ManifestError([f"{manifest.name} lacks {', '.join(absent)}"])
    defects = list(itertools.islice(_schema_defects(manifest, version=version), MAX_SHOWN))
    if defects:
        raise ManifestError(defects)


def _schema_defects(manifest: CheckedJson, *, version: int) -> Iterator[str]:
    """Yield the first defect of each part of a manifest, and of each file that it lists."""
    checks: list[Callable[[], object]] = [
        lambda: _check_digests(manifest.member("digests")),
        lambda: _check_template(manifest.member("template")),
        lambda: _check_tokenizer(manifest.member("tokenizer"), version=version),
        lambda: _check_counts(manifest.member("totals")),
        lambda: _check_sources(manifest.member("sources")),
        lambda: _check_facts(manifest),
    ]
    for check in checks:
        try:
            check()
        except ValueError as error:
            yield str(error)
    yield from _list_defects(manifest.member("shards"), check_one=_check_shard)
    yield from _list_defects(manifest.member("index"), check_one=_check_part)


def _digest(value: CheckedJson) -> None:
    value.text(DIGEST, wanted="64 hexadecimal digits")


def _check_digests(digests: CheckedJson) -> None:
    for name in ("tokenizer", "template", "index"):
        _digest(digests.member(name))
    plan = digests.get("plan")
    if plan is not None:
        _digest(plan)


def _check_template(template: CheckedJson) -> None:
    template.member("name").text()
    system = template.member("system")
    if system.value is not None and len(system.text(wanted="a string or null")) > MAX_SYSTEM:
        system.fail(f"at most {MAX_SYSTEM} characters")
    frame = template.get("frame_version")
    if frame is not None:
        frame.integer(1, MAX_COUNT)


def _check_tokenizer(tokenizer: CheckedJson, *, version: int) -> None:
    _digest(tokenizer.member("fingerprint"))
    last_id = tokenizer.member("num_ids").integer(1, MAX_NUM_IDS) - 1
    for name in ("end_id", "image_id"):
        tokenizer.member(name).integer(0, last_id)
    begin = tokenizer.member("begin_id")
    if begin.value is not None:
        begin.integer(0, last_id)
    if version < 3:
        return
    files = tokenizer.member("files")
    for name, digest in files.members():
        if name not in READ_TOKENIZER_FILES:
            files.fail(f"names among {', '.join(READ_TOKENIZER_FILES)}")
        _digest(digest)
    for name in TOKENIZER_FILES:
        files.member(name)


def _check_counts(counts: CheckedJson) -> None:
    for _, count in counts.members():
        count.integer(0, MAX_COUNT)


def _check_sources(sources: CheckedJson) -> None:
    for _, counts in sources.members():
        _check_counts(counts)


def _list_defects(listed: CheckedJson, *, check_one: Callable[[CheckedJson], str]) -> Iterator[str]:
    """Yield the first defect of each file of a list; their names must differ."""
    names: set[str] = set()
    try:
        elements = listed.elements()
        if not 1 <= len(elements) <= MAX_LISTED:
            listed.fail(f"a list of 1 to {MAX_LISTED} files")
    except ValueError as error:
        yield str(error)
        return
    for one in elements:
        try:
            name = check_one(one)
            if name in names:
                one.member("name").fail("a name that is listed once")
            names.add(name)
        except ValueError as error:
            yield str(error)


def _check_shard(shard: CheckedJson) -> str:
    split = shard.member("split").text(SPLIT, wanted="letters, digits, _ and -")
    name = shard.member("name")
    wanted = f"{ascii(split)[1:-1]}-<6 digits>.tar"
    found = name.text(wanted=wanted)
    number = found.removeprefix(f"{split}-").removesuffix(".tar")
    if SHARD_NUMBER.fullmatch(number) is None or found != f"{split}-{number}.tar":
        name.fail(wanted)
    shard.member("bytes").integer(0, MAX_BYTES)
    shard.member("samples").integer(0, MAX_BYTES)
    _digest(shard.member("sha256"))
    return found


def _check_part(part: CheckedJson) -> str:
    part.member("rows").integer(0, MAX_ROWS_PER_PART)
    _digest(part.member("sha256"))
    return part.member("name").text(PART_NAME, wanted="part-<5 digits>.parquet")


def _check_facts(manifest: CheckedJson) -> None:
    """Check what is not in every manifest."""
    for name, high in (
        ("max_tokens", MAX_SAMPLE_TOKENS),
        ("positions_per_image", MAX_IMAGE_POSITIONS),
    ):
        value = manifest.get(name)
        if value is not None:
            value.integer(1, high)
    for name in ("licences", "image", "recipe", "libraries", "retokenized"):
        value = manifest.get(name)
        if value is not None:
            value.object()
    for name in ("licences", "image"):
        for _, value in _members(manifest.get(name)):
            if isinstance(value.value, list | dict):
                value.fail("a string or a number")


def _members(value: CheckedJson | None) -> list[tuple[str, CheckedJson]]:
    return [] if value is None else list(value.members())


def check_counts_agree(manifest: dict[str, Any], *, name: str) -> None:
    """Raise ValueError unless the index has as many rows as the shards have samples."""
    rows = sum(part["rows"] for part in manifest["index"])
    samples = sum(shard["samples"] for shard in manifest["shards"])
    if rows != samples:
        raise ValueError(
            f"{name}: its index has {rows} rows, its shards {samples} samples, wanted as many"
        )
