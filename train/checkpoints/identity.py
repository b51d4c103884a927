"""The identity of a run: its data, its tokenizer and the settings that shape the result.

Every checkpoint holds it. A run that would continue from a checkpoint of another identity ends with
one line that names what differs, both values and both digests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vchat.shards.format.shard_set import ShardSet
from vchat.shards.plan.joined_sets import join_digests
from vchat.train.checkpoints.checkpoint import Checkpoint
from vchat.train.config.run import settings_digest

MAX_VALUE_CHARS = 100
"""Longer values are cut in messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunIdentity:
    """Facts of one run that never change while it lasts."""

    settings: dict[str, Any]
    """Made by `result_settings`: `section.key` -> value of what shapes the result."""

    shards: dict[str, Any]
    """Made by `shard_facts`."""


def shard_facts(shard_sets: Sequence[ShardSet]) -> dict[str, Any]:
    """Collect what a checkpoint's `shards.json` says about the shard sets of its run."""
    manifests = [shard_set.manifest for shard_set in shard_sets]
    return {
        "index_digest": join_digests([found["digests"]["index"] for found in manifests]),
        "tokenizer_fingerprint": shard_sets[0].tokenizer().fingerprint,
        "template": _without_first_frame(manifests[0]["template"]),
        "max_tokens": max(found["max_tokens"] for found in manifests),
        "stored_image_size": manifests[0].get("image", {}).get("size"),
    }


def _without_first_frame(template: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest's template as sets of versions 1 and 2 state it: they have frame 1."""
    rest = dict(template)
    if rest.get("frame_version") == 1:
        del rest["frame_version"]
    return rest


def check_same_run(identity: RunIdentity, checkpoint: Checkpoint) -> None:
    """Raise ValueError if `checkpoint` was made by another run than this one."""
    for name, what in (
        ("index_digest", "shard set"),
        ("tokenizer_fingerprint", "tokenizer"),
        ("template", "template"),
    ):
        differing = first_difference(checkpoint.shards.get(name), identity.shards[name], name=name)
        if differing is not None:
            field, old, new = differing
            raise ValueError(
                f"{checkpoint.folder}: made with another {what} than this run: "
                f"{field} {old} there, {new} here; choose another run.out"
            )
    _check_settings(checkpoint.state["settings"], identity.settings, folder=str(checkpoint.folder))


def _check_settings(old: Mapping[str, Any], new: Mapping[str, Any], *, folder: str) -> None:
    differing = first_difference(old, new)
    if differing is not None:
        field, there, here = differing
        raise ValueError(
            f"{folder}: made with {field} = {there}, this run has {here} "
            f"(settings {settings_digest(old)} there, {settings_digest(new)} here); "
            f'choose another run.out; model.start_from = "{folder}" begins a run with its weights'
        )


def first_difference(old: Any, new: Any, *, name: str = "") -> tuple[str, str, str] | None:
    """Return the first field in which two values differ, at any depth of tables, and both values.

    Args:
        name: of the two values; the name of the field begins with it.
    """
    if old == new:
        return None
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return name, _describe_value(old), _describe_value(new)
    for key in sorted({*old, *new}):
        field = f"{name}.{key}" if name else key
        differing = first_difference(old.get(key), new.get(key), name=field)
        if differing is not None:
            return differing
    return None


def _describe_value(value: Any) -> str:
    """Format a value shortly; what is absent or null in JSON counts as not set."""
    if value is None:
        return "not set"
    text = "a table" if isinstance(value, Mapping) else repr(value)
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]}..."
