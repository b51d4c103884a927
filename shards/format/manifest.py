"""`manifest.json`: what a shard set is, written last, so that a folder that has one is complete.

FORMAT.md lists its fields.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)
"""Version 1 is version 2 without the manifest's own digest."""

MANIFEST = "manifest.json"
REQUIRED_KEYS = ("digests", "template", "tokenizer", "totals", "sources", "shards", "index")
"""What a reader uses of a manifest; FORMAT.md lists the rest."""


def parse_manifest(data: bytes | str, path: Path | str) -> dict[str, Any]:
    """Return the manifest in a file's content.

    Args:
        data: The content.
        path: Path or URL of the file, for errors.

    Raises:
        ValueError: It is no JSON, of a version we do not read, lacks a field that we use, or is
            not as it was written.
    """
    try:
        manifest = json.loads(data)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    _check_manifest(manifest, path)
    return dict(manifest)


def _check_manifest(manifest: Any, path: Path | str) -> None:
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


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of everything in a manifest but the field that holds it."""
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def index_digest(parts: Sequence[Mapping[str, Any]]) -> str:
    """Return the SHA-256 over the digests of the index's files, in order."""
    return hashlib.sha256("\n".join(part["sha256"] for part in parts).encode()).hexdigest()
