"""The tokenizer of a shard set: its files and ids are those that the manifest states."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vchat.base.safe_paths import read_regular
from vchat.shards.format.manifest_schema import READ_TOKENIZER_FILES
from vchat.shards.text.tokenizer import MAX_TOKENIZER_BYTES, TextTokenizer

FIRST_WITH_DIGESTS = 3
"""The format version from which a manifest lists the files of its tokenizer."""


def read_tokenizer_files(folder: Path) -> dict[str, str]:
    """Return the digest of each file in `tokenizer/` that a tokenizer is read from.

    Raises:
        OSError: One is no plain file of the set, as for `read_regular`.
        ValueError: One is too large.
    """
    found = {}
    for name in READ_TOKENIZER_FILES:
        with contextlib.suppress(FileNotFoundError):
            data = read_regular(folder, f"tokenizer/{name}", max_bytes=MAX_TOKENIZER_BYTES)
            found[name] = hashlib.sha256(data).hexdigest()
    return found


def check_tokenizer_files(
    folder: Path, manifest: Mapping[str, Any], found: Mapping[str, str]
) -> None:
    """Raise ValueError unless the files of a tokenizer have the digests that the manifest lists.

    Versions 1 and 2 list none.

    Args:
        folder: Of the shard set.
        manifest: Of the set; checked.
        found: What `read_tokenizer_files` returns.
    """
    if manifest["format_version"] < FIRST_WITH_DIGESTS:
        return
    stated = manifest["tokenizer"]["files"]
    for name in sorted(stated.keys() | found.keys()):
        if stated.get(name) != found.get(name):
            digest, wanted = (
                f"has sha256 {one[name]}" if name in one else "is not there"
                for one in (found, stated)
            )
            raise ValueError(
                f"{folder}/tokenizer/{name} {digest}, by manifest.json it {wanted}: the tokenizer"
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
