"""Publish a shard set: write index, tokenizer and, last, the manifest beside finished shards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from vchat.base.files import sha256_file, write_atomically
from vchat.shards.format.index import statistics, write_index
from vchat.shards.format.manifest import FORMAT_VERSION, MANIFEST, index_digest, manifest_digest
from vchat.shards.text.chat_template import FRAME_VERSION, ChatTemplate
from vchat.shards.text.named_template import make_template
from vchat.shards.text.tokenizer import TOKENIZER_FILES, TextTokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedShard:
    """A shard on disk that is not published yet."""

    name: str
    """File name in the set's folder."""

    split: str
    size_bytes: int
    sha256: str
    rows: pa.Table
    """Its index rows, as returned by `write_shard`."""


def describe_shard(path: Path, *, split: str, rows: pa.Table) -> FinishedShard:
    """Return the description of a shard on disk; reads the file once for its digest."""
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
    """Write index, tokenizer and, last, the manifest, which makes the set complete.

    Args:
        folder: The folder of the shards.
        manifest_without_shards: The manifest's fields from the build: recipe, digests of inputs and
            plan, `template` (name and system text), image policy, licences, library versions.
        shards: In the order of their numbers in the index.
        tokenizer: The tokenizer that made the token ids.
    """
    index = concatenate_rows(shards)
    tokenizer.save(folder / "tokenizer")
    parts = list(write_index(folder / "index", index))
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
        "template": dict(stated) | _frame_entry(stated["name"]),
        "tokenizer": _tokenizer_entry(tokenizer) | {"files": _file_digests(folder / "tokenizer")},
        "totals": statistics(index)[0] if index.num_rows else {},
        "sources": {row.pop("source"): row for row in statistics(index, by=["source"])},
        "shards": [_shard_entry(shard) for shard in shards],
        "index": parts,
    }
    with write_atomically(folder / MANIFEST) as file:
        file.write(json.dumps(manifest | {"sha256": manifest_digest(manifest)}, indent=1).encode())


def _tokenizer_entry(tokenizer: TextTokenizer) -> dict[str, Any]:
    return {
        "fingerprint": tokenizer.fingerprint,
        "begin_id": tokenizer.begin_id,
        "end_id": tokenizer.end_id,
        "image_id": tokenizer.image_id,
        "num_ids": tokenizer.num_ids,
    }


def _frame_entry(template: str) -> dict[str, Any]:
    """Return the version of the frame that the template `chat` puts around texts."""
    return {"frame_version": FRAME_VERSION} if template == ChatTemplate.name else {}


def _file_digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a saved tokenizer, by name."""
    return {name: sha256_file(folder / name) for name in sorted(TOKENIZER_FILES)}


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
