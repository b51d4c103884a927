"""A published shard set: its manifest, index, tokenizer and template, and its samples one by one.

The index is all that a plan needs, and all that a reader needs to find a sample's bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vchat.shards.format.index import check_row, read_index
from vchat.shards.format.manifest import MANIFEST
from vchat.shards.format.members import ATTEMPTS, cut_members
from vchat.shards.format.sample import Sample, check_ids, decode_sample
from vchat.shards.format.set_tokenizer import (
    check_tokenizer_files,
    check_tokenizer_ids,
    read_tokenizer_files,
)
from vchat.shards.storage.store import LocalStore, ShardError, Store, UnreachableError
from vchat.shards.text.chat_template import FRAME_VERSION
from vchat.shards.text.named_template import make_template
from vchat.shards.text.template import Template
from vchat.shards.text.tokenizer import TextTokenizer


class ShardSet:
    """A published shard set, open for reading; the index is read when it is first used."""

    def __init__(
        self,
        folder: Path,
        *,
        manifest: dict[str, Any],
        store: Store | None = None,
        url: str | None = None,
    ):
        """Use `open_shards` instead.

        Args:
            folder: The folder of index and tokenizer, and of the shards if there is no `store`.
            manifest: The content of its `manifest.json`.
            store: The shards, if they do not lie in the folder.
            url: Where the set lies, if not in the folder.
        """
        self.folder = folder
        self.url = url
        self.manifest = manifest
        self.store: Store = store or LocalStore(folder)

    @property
    def name(self) -> str:
        """The last part of the set's path or URL."""
        return self.url.rstrip("/").rpartition("/")[2] if self.url else self.folder.resolve().name

    def index(self, split: str | None = None) -> pa.Table:
        """Return the index rows of a split, or all, in order of shards and of samples in them.

        Raises:
            ValueError: An index file is missing, damaged, or has another number of rows; or there
                is no such split: names the existing ones.
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
        """The names of the splits, in the order of their shards."""
        return list(dict.fromkeys(shard["split"] for shard in self.manifest["shards"]))

    def limit(self, name: str) -> int:
        """Return `max_tokens` or `positions_per_image`, which not every writer states.

        Raises:
            ValueError: The manifest does not state it.
        """
        if name not in self.manifest:
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"{self.folder / MANIFEST} states no {name}: give it with {flag}")
        return int(self.manifest[name])

    @property
    def template(self) -> Template:
        """The template that rendered the samples.

        Raises:
            ValueError: This version of the template renders other text (names both digests), or
                the tokenizer, which may have the template, is not the recorded one; or the frame of
                a chat template was found by other rules.
        """
        stated = self.manifest["template"]
        version = stated.get("frame_version", FRAME_VERSION)
        if version != FRAME_VERSION:
            raise ValueError(
                f"{self.folder} has template.frame_version {version!r}; wanted {FRAME_VERSION}"
            )
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
        """Return the tokenizer that made the token ids; loads it at the first call.

        Raises:
            ValueError: A file of it, its behaviour or an id is not the recorded one; names both.
        """
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> TextTokenizer:
        files = read_tokenizer_files(self.folder)
        tokenizer = TextTokenizer.load(self.folder / "tokenizer")
        stated = self.manifest["digests"]["tokenizer"]
        tokenizer.check_fingerprint(stated, origin=str(self.folder / MANIFEST))
        check_tokenizer_ids(self.folder, self.manifest, tokenizer)
        check_tokenizer_files(self.folder, self.manifest, files)
        return tokenizer

    def read_sample(self, row: Mapping[str, Any] | int) -> Sample:
        """Read one sample by its index row, or by the row's number in the whole index.

        Raises:
            ShardError: The shard is missing, truncated, or a member's checksum differs.
            ValueError: The members do not make a sample, or not the one of this row.
        """
        located = self._index_row(row) if isinstance(row, int) else row
        name = f"{self.shard_name(located)}, {located['stem']}"
        sample = decode_sample(self.read_members(located), name=name)
        tokenizer = self.manifest["tokenizer"]
        check_ids(sample, image_id=tokenizer["image_id"], num_ids=tokenizer["num_ids"], name=name)
        check_row(sample, located, name=name)
        return sample

    def read_members(self, row: Mapping[str, Any]) -> dict[str, bytes]:
        """Return a sample's members by name, in one read, each checked against its checksum.

        Reads again if the bytes are wrong.

        Raises:
            ShardError: The shard is missing, truncated, or a member's checksum differs.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._read_members_once(row)
            except ShardError as err:
                if attempt == ATTEMPTS or isinstance(err, UnreachableError):
                    raise
            self.store.metrics.count("retries")
        raise AssertionError("the last attempt returns or raises")

    def _read_members_once(self, row: Mapping[str, Any]) -> dict[str, bytes]:
        members = [(m["name"], m["offset"], m["size"], m["xxh3"]) for m in row["members"]]
        start = min(offset for _, offset, _, _ in members)
        end = max(offset + size for _, offset, size, _ in members)
        shard = self.shard_name(row)
        named = {"key": row["key"], "source": row["source"]}
        try:
            data = memoryview(self.store.read(shard, start, end))
        except ShardError as err:
            raise err.with_sample(**named, offset=start) from err
        try:
            parts = cut_members(data, members, first_byte=start, store=self.store, shard=shard)
        except ShardError as err:
            raise err.with_sample(**named, offset=err.offset) from err
        return {name: bytes(part) for name, part in parts.items()}

    def shard_name(self, row: Mapping[str, Any]) -> str:
        """Return the file name of the shard with a row's sample."""
        return str(self.manifest["shards"][row["shard"]]["name"])

    @cached_property
    def _index(self) -> pa.Table:
        return read_index(self.folder, self.manifest)

    def _index_row(self, number: int) -> dict[str, Any]:
        if not 0 <= number < self._index.num_rows:
            raise ValueError(f"no sample {number} in {self.folder}; it has {self._index.num_rows}")
        row: dict[str, Any] = self._index.slice(number, 1).to_pylist()[0]
        return row
