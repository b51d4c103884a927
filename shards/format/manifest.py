"""A shard set: written last by `publish`, opened by `open_shards`.

The manifest is the last file of a build, so a folder that has one is complete. The index under
`index/` is all that a plan needs, and all that a reader needs to find a sample's bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from vchat.base.files import sha256_file, write_atomically
from vchat.shards.format.sample import Sample, decode_sample
from vchat.shards.format.statistics import statistics
from vchat.shards.storage.config import StorageConfig
from vchat.shards.storage.store import LocalStore, ShardError, Store
from vchat.shards.text.named_template import make_template
from vchat.shards.text.template import Template
from vchat.shards.text.tokenizer import TextTokenizer

FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)
"""Version 1 is version 2 without the manifest's own digest."""

ROWS_PER_INDEX_PART = 200_000
REQUIRED_KEYS = ("digests", "template", "tokenizer", "totals", "sources", "shards", "index")
"""What a reader uses of a manifest; FORMAT.md lists the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedShard:
    """A shard on disk that waits to be published."""

    name: str
    """File name; the file lies in the set's folder."""

    split: str
    size_bytes: int
    sha256: str
    rows: pa.Table
    """Its index rows, as `write_shard` returned them."""


def describe_shard(path: Path, *, split: str, rows: pa.Table) -> FinishedShard:
    """Describe a written shard; reads the file once for its digest."""
    return FinishedShard(
        name=path.name,
        split=split,
        size_bytes=path.stat().st_size,
        sha256=sha256_file(path),
        rows=rows,
    )


def publish(
    folder: Path,
    *,
    manifest_without_shards: Mapping[str, Any],
    shards: Sequence[FinishedShard],
    tokenizer: TextTokenizer,
) -> None:
    """Write index, tokenizer and, last, the manifest: from then on the set is complete.

    Args:
        folder: Holds the shards.
        manifest_without_shards: What the build knows: recipe, digests of inputs and plan,
            `template` (name and system text), image policy, licences, library versions.
        shards: In the order of their numbers in the index.
        tokenizer: The one that made the token ids.
    """
    index = concatenate_rows(shards)
    tokenizer.save(folder / "tokenizer")
    parts = list(_write_index(folder / "index", index))
    stated = manifest_without_shards["template"]
    template = make_template(stated["name"], system=stated["system"], tokenizer=tokenizer)
    digests = {
        "tokenizer": tokenizer.fingerprint,
        "template": template.digest,
        "index": index_digest(parts),
    }
    manifest = {
        "format_version": FORMAT_VERSION,
        **manifest_without_shards,
        "digests": manifest_without_shards.get("digests", {}) | digests,
        "tokenizer": _tokenizer_entry(tokenizer),
        "totals": statistics(index)[0] if index.num_rows else {},
        "sources": {row.pop("source"): row for row in statistics(index, by=["source"])},
        "shards": [_shard_entry(shard) for shard in shards],
        "index": parts,
    }
    with write_atomically(folder / "manifest.json") as file:
        file.write(json.dumps(manifest | {"sha256": manifest_digest(manifest)}, indent=1).encode())


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of everything in a manifest but the field that holds it."""
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _tokenizer_entry(tokenizer: TextTokenizer) -> dict[str, Any]:
    return {
        "fingerprint": tokenizer.fingerprint,
        "begin_id": tokenizer.begin_id,
        "end_id": tokenizer.end_id,
        "image_id": tokenizer.image_id,
        "num_ids": tokenizer.num_ids,
    }


def _shard_entry(shard: FinishedShard) -> dict[str, Any]:
    return {
        "name": shard.name,
        "split": shard.split,
        "bytes": shard.size_bytes,
        "sha256": shard.sha256,
        "samples": shard.rows.num_rows,
    }


def concatenate_rows(shards: Sequence[FinishedShard]) -> pa.Table:
    """Return the rows of all shards in order, with the column `shard` added."""
    tables = [
        shard.rows.append_column("shard", pa.array([number] * shard.rows.num_rows, pa.int32()))
        for number, shard in enumerate(shards)
    ]
    if not tables:
        raise ValueError("a shard set needs at least one shard, got none")
    return pa.concat_tables(tables).unify_dictionaries()


def index_digest(parts: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 over the digests of the index's files, in order."""
    return hashlib.sha256("\n".join(part["sha256"] for part in parts).encode()).hexdigest()


def _write_index(folder: Path, index: pa.Table) -> Iterator[dict[str, Any]]:
    """Write the index in parts of bounded size; yields each part's name, rows and digest."""
    for number, start in enumerate(range(0, max(index.num_rows, 1), ROWS_PER_INDEX_PART)):
        part = index.slice(start, ROWS_PER_INDEX_PART)
        path = folder / f"part-{number:05d}.parquet"
        with write_atomically(path) as file:
            pq.write_table(part, file, compression="zstd")
        yield {"name": path.name, "rows": part.num_rows, "sha256": sha256_file(path)}


class ShardSet:
    """A published shard set, open for reading; the index is read when it is first asked for."""

    def __init__(
        self,
        folder: Path,
        *,
        manifest: dict[str, Any],
        store: Store | None = None,
        url: str | None = None,
    ):
        """Use `open_shards`; `store` has the shards if they lie under a URL, not in the folder."""
        self.folder = folder
        self.url = url
        self.manifest = manifest
        self.store: Store = store or LocalStore(folder)

    @property
    def name(self) -> str:
        """The last part of its path or URL."""
        return self.url.rstrip("/").rpartition("/")[2] if self.url else self.folder.resolve().name

    def index(self, split: str | None = None) -> pa.Table:
        """Return the index rows of a split, or all, in shard-then-position order.

        Raises:
            ValueError: An index part is missing or has another number of rows, or there is no
                such split; names those there are.
        """
        if split is None:
            return self._index
        if split not in self.splits:
            raise ValueError(
                f"no split {split!r} in {self.folder}; it has {', '.join(self.splits) or 'none'}"
            )
        return self._index.filter(pc.equal(self._index["split"], split))

    @property
    def splits(self) -> list[str]:
        """Names of the splits, in the order of their shards."""
        return list(dict.fromkeys(shard["split"] for shard in self.manifest["shards"]))

    @property
    def template(self) -> Template:
        """The template that rendered the samples.

        Raises:
            ValueError: This version of the template renders other text (names both digests), or
                the tokenizer, which may bring the template, is not the one recorded.
        """
        stated = self.manifest["template"]
        template = make_template(
            stated["name"], system=stated["system"], tokenizer=self.tokenizer()
        )
        if template.digest != self.manifest["digests"]["template"]:
            raise ValueError(
                f"{self.folder} was made with another template {template.name!r}: its digest is "
                f"{self.manifest['digests']['template']}, ours {template.digest}"
            )
        return template

    def tokenizer(self) -> TextTokenizer:
        """Return the tokenizer that made the token ids, loaded when it is first asked for.

        Raises:
            ValueError: Its behaviour is not the one recorded; names both fingerprints.
        """
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> TextTokenizer:
        tokenizer = TextTokenizer.load(self.folder / "tokenizer")
        stated = self.manifest["digests"]["tokenizer"]
        tokenizer.check_fingerprint(stated, origin=str(self.folder / "manifest.json"))
        return tokenizer

    def read_sample(self, row: Mapping[str, Any] | int) -> Sample:
        """Read one sample by its index row, or by the row's number in the whole index.

        Raises:
            ShardError: The shard is missing, truncated, or a member's checksum differs.
            ValueError: The members are no sample.
        """
        located = self._index_row(row) if isinstance(row, int) else row
        name = f"{self.shard_name(located)}, {located['stem']}"
        return decode_sample(self.read_members(located), name=name)

    def read_members(self, row: Mapping[str, Any]) -> dict[str, bytes]:
        """Return a sample's members by name, in one read, each checked against its checksum."""
        located = row["members"]
        start = min(member["offset"] for member in located)
        end = max(member["offset"] + member["size"] for member in located)
        shard = self.shard_name(row)
        try:
            data = self.store.read(shard, start, end)
        except ShardError as err:
            raise err.with_sample(key=row["key"], source=row["source"], offset=start) from err
        found = {}
        for member in located:
            first = member["offset"] - start
            found[member["name"]] = data[first : first + member["size"]]
            _check_checksum(found[member["name"]], member, shard=shard, row=row)
        return found

    def shard_name(self, row: Mapping[str, Any]) -> str:
        """Return the file name of the shard that a row's sample lies in."""
        return str(self.manifest["shards"][row["shard"]]["name"])

    @cached_property
    def _index(self) -> pa.Table:
        parts = [self._read_index_part(part) for part in self.manifest["index"]]
        return pa.concat_tables(parts).unify_dictionaries()

    def _read_index_part(self, part: Mapping[str, Any]) -> pa.Table:
        path = self.folder / "index" / part["name"]
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise ValueError(f"no index file {path}, which manifest.json lists") from error
        found = hashlib.sha256(data).hexdigest()
        if found != part["sha256"]:
            raise ValueError(
                f"{path} has sha256 {found}, manifest.json says {part['sha256']}: it is damaged or "
                "of another build"
            )
        try:
            table = pq.read_table(pa.BufferReader(data))
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path} is not a Parquet file: {error}") from error
        if table.num_rows != part["rows"]:
            raise ValueError(f"{path} has {table.num_rows} rows; manifest.json says {part['rows']}")
        return table

    def _index_row(self, number: int) -> dict[str, Any]:
        if not 0 <= number < self._index.num_rows:
            raise ValueError(f"no sample {number} in {self.folder}; it has {self._index.num_rows}")
        row: dict[str, Any] = self._index.slice(number, 1).to_pylist()[0]
        return row


def open_shards(folder: Path | str, *, storage: StorageConfig | None = None) -> ShardSet:
    """Open a published shard set; reads `manifest.json` only, or the small files if it is remote.

    Args:
        folder: A local folder, or a URL (`s3://bucket/mix-v1`, `gs://`, `az://`, `https://`).
        storage: How a remote set is reached and kept; by default without endpoint and cache.

    Raises:
        ValueError: There is no such folder, its build is not finished, or its manifest is of
            another format version or malformed.
    """
    if "://" in str(folder):
        from vchat.shards.format.remote_set import open_remote_shards

        return open_remote_shards(str(folder), storage=storage)
    folder = Path(folder)
    path = folder / "manifest.json"
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}; wanted a folder of shards")
    if not path.is_file():
        raise ValueError(
            f"no manifest.json in {folder}: the build is not finished, or these are no shards"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    check_manifest(manifest, path)
    return ShardSet(folder, manifest=manifest)


def check_manifest(manifest: Any, path: Path | str) -> None:
    """Raise ValueError unless a manifest is of a version we read, whole, and as it was written."""
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version not in READABLE_VERSIONS:
        wanted = " or ".join(map(str, READABLE_VERSIONS))
        raise ValueError(f"{path} has format_version {version!r}; wanted {wanted}")
    absent = [name for name in REQUIRED_KEYS if name not in manifest]
    if absent:
        raise ValueError(f"{path} lacks {', '.join(absent)}")
    stated, found = manifest.get("sha256"), manifest_digest(manifest)
    if version > 1 and stated != found:
        raise ValueError(f"{path} was changed: its sha256 is {found}, it states {stated}")


def _check_checksum(
    data: bytes, member: Mapping[str, Any], *, shard: str, row: Mapping[str, Any]
) -> None:
    """Raise ShardError unless the bytes have the checksum of the index."""
    found = xxhash.xxh3_64_intdigest(data)
    if found != member["xxh3"]:
        raise ShardError(
            f"{member['name']} has checksum {found:016x}, wanted {member['xxh3']:016x}",
            shard=shard,
            offset=member["offset"],
            key=row["key"],
            source=row["source"],
        )
