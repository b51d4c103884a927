"""The tokenizer of a shard set: its files and ids are those that the manifest states."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vchat.base.safe_paths import read_regular
from vchat.shards.format.manifest_schema import READ_TOKENIZER_FILES
from vchat.shards.text.tokenizer import TextTokenizer

MAX_TOKENIZER_BYTES = 256 * 2**20
"""Of one file."""


def check_tokenizer_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise ValueError unless the files in `tokenizer/` are plain files with the listed digests.

    Versions 1 and 2 list no digests.
    """
    stated = manifest["tokenizer"].get("files") if manifest["format_version"] > 2 else None
    for name in READ_TOKENIZER_FILES:
        file = f"tokenizer/{name}"
        try:
            data = read_regular(folder, file, max_bytes=MAX_TOKENIZER_BYTES)
        except FileNotFoundError as error:
            if stated is not None and name in stated:
                raise ValueError(f"no {folder}/{file}, which manifest.json lists") from error
            continue
        if stated is None:
            continue
        found, wanted = hashlib.sha256(data).hexdigest(), stated.get(name)
        if wanted is None:
            raise ValueError(f"{folder}/{file} is not listed in manifest.json, wanted no such file")
        if found != wanted:
            raise ValueError(
                f"{folder}/{file} has sha256 {found}, manifest.json says {wanted}: the tokenizer"
                " was changed"
            )


def check_tokenizer_ids(
    folder: Path, manifest: Mapping[str, Any], tokenizer: TextTokenizer
) -> None:
    """Raise ValueError unless the special ids in the manifest are those of the tokenizer."""
    for name in ("begin_id", "end_id", "image_id", "num_ids"):
        stated, found = manifest["tokenizer"][name], getattr(tokenizer, name)
        if stated != found:
            raise ValueError(
                f"{folder}/manifest.json: tokenizer.{name} is {stated}, that of its tokenizer is"
                f" {found}"
            )
