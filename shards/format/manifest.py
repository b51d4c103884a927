"""`manifest.json`: what a shard set is, written last, so that a folder that has one is complete.

FORMAT.md lists its fields.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vchat.base.checked_json import CheckedJson, parse_json, show_value
from vchat.shards.format.manifest_schema import check_counts_agree, check_schema

FORMAT_VERSION = 3
READABLE_VERSIONS = (1, 2, 3)
"""Version 1 is version 2 without the manifest's own digest; FORMAT.md says what version 3 adds."""

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 64 * 2**20


def parse_manifest(data: bytes, path: Path | str) -> dict[str, Any]:
    """Return the manifest in a file's content, checked.

    Args:
        data: The content.
        path: Path or URL of the file, for errors.

    Raises:
        ValueError: It is not JSON, has a version that is not read here, is not as FORMAT.md says
            (the error names the place), or has been changed.
    """
    name = str(path)
    document = CheckedJson(parse_json(data, name=name), name=name)
    version = document.value.get("format_version") if isinstance(document.value, dict) else None
    if type(version) is not int or version not in READABLE_VERSIONS:
        wanted = " or ".join(map(str, READABLE_VERSIONS))
        raise ValueError(f"{name} has format_version {show_value(version)}; wanted {wanted}")
    manifest = document.object()
    stated, found = manifest.get("sha256"), manifest_digest(manifest)
    if version > 1 and stated != found:
        raise ValueError(
            f"{name} was changed: its sha256 is {found}, it states {show_value(stated)}"
        )
    check_schema(document, version=version)
    check_counts_agree(manifest, name=name)
    return manifest


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest without its own field `sha256`."""
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def index_digest(parts: Sequence[Mapping[str, Any]]) -> str:
    """Return the SHA-256 over the digests of the files of an index, in order."""
    return hashlib.sha256("\n".join(part["sha256"] for part in parts).encode()).hexdigest()
