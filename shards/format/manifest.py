"""`manifest.json`: what a shard set is, written last, so that a folder that has one is complete.

FORMAT.md lists its fields.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FORMAT_VERSION = 3
READABLE_VERSIONS = (1, 2, 3)
"""Version 1 is version 2 without the manifest's own digest; FORMAT.md says what version 3 adds."""

MANIFEST = "manifest.json"
REQUIRED_KEYS = ("digests", "template", "tokenizer", "totals", "sources", "shards", "index")
"""The fields that a reader uses; FORMAT.md lists the others."""


def parse_manifest(data: bytes | str, path: Path | str) -> dict[str, Any]:
    """Return the manifest in a file's content.

    Args:
        data: The content.
        path: Path or URL of the file, for errors.

    Raises:
        ValueError: It is not JSON, has a version that is not read here, lacks a field, or has been
            changed.
    """
    try:
        manifest = json.loads(data)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    _check_manifest(manifest, path)
    return dict(manifest)


def _check_manifest(manifest: Any, path: Path | str) -> None:
    """Raise ValueError unless a manifest has a known version, all fields and the right digest."""
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
    """Return the SHA-256 of a manifest without its own field `sha256`."""
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def index_digest(parts: Sequence[Mapping[str, Any]]) -> str:
    """Return the SHA-256 over the digests of the files of an index, in order."""
    return hashlib.sha256("\n".join(part["sha256"] for part in parts).encode()).hexdigest()
