"""What the JSON files of a checkpoint must hold: checked before anything in them is used.

A checkpoint may come from somebody else, or from a mirror that others can write to.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any

_SHA256 = re.compile("[0-9a-f]{64}")
_FROZEN = re.compile(r"\.\./frozen/[0-9a-f]{64}\.safetensors")

STATE = {"step": int, "world_size": int, "loader": dict, "settings": dict}
"""Keys of `state.json` that a run goes on from, and their types."""

LOADER = {"arguments": dict, "digest": str, "epoch": int, "position": int}
"""Keys of its `loader`."""

SHARDS = {"tokenizer_fingerprint": str, "template": dict, "image_size": int}
"""Keys of `shards.json` that every reader needs."""

TEMPLATE: Mapping[str, type | UnionType] = {"name": str, "system": str | None}
"""Keys of its `template`."""


def check_resumable(path: Path, state: Mapping[str, Any]) -> None:
    """Raise ValueError as `check_facts` if a state is not one that a run can go on from.

    A checkpoint that was imported has none.
    """
    check_facts(path, state, STATE)
    check_facts(path, state["loader"], LOADER)


def check_facts(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise ValueError, naming file, key, value found and type wanted, if a key is not as wanted.

    Numbers must not be negative.
    """
    for name, kind in wanted.items():
        value = found.get(name)
        is_right = isinstance(value, kind) and not isinstance(value, bool)
        if not is_right or (isinstance(value, int) and value < 0):
            text = repr(value)[:60]
            number = "number from 0" if kind is int else getattr(kind, "__name__", str(kind))
            raise ValueError(f"{path}: {name} is {text}, want a {number}")


def describe_wrong_entry(name: str, facts: Any) -> str | None:
    """Describe what is wrong with an entry of `files.json`, or return None.

    A file lies in the step folder, or is one of frozen weights beside it.
    """
    inside = posixpath.normpath(name) == name and not name.startswith(("/", "../", "files.json"))
    if name in (".", "..") or not (inside or _FROZEN.fullmatch(name)):
        return f"files.json lists {name!r}, which is not a file of the run"
    size, digest = (
        (facts.get("size_bytes"), facts.get("sha256")) if isinstance(facts, dict) else (None, None)
    )
    if type(size) is not int or not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        return f"files.json says {facts!r:.60} of {name}, want size_bytes and sha256"
    return None
