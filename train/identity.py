"""What makes two runs the same run: their data, tokenizer and the settings that shape the result.

A checkpoint keeps these; a run that would continue it compares, and refuses with one line that
names what differs, both values and both digests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vchat.shards.joined_sets import joined_digest
from vchat.shards.manifest import ShardSet
from vchat.train.checkpoint import Checkpoint
from vchat.train.config import RunConfig, digest, shaping


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Facts of one run that never change while it lasts."""

    settings: dict[str, Any]
    """`section.key` -> value of every setting that shapes the result."""

    shards: dict[str, Any]
    """What a checkpoint's `shards.json` says about the shard sets."""


def identity_of(config: RunConfig, shard_sets: Sequence[ShardSet]) -> Identity:
    """Collect the facts of a run from its configuration and its shard sets."""
    manifests = [shard_set.manifest for shard_set in shard_sets]
    return Identity(
        settings=shaping(config),
        shards={
            "index_digest": joined_digest([found["digests"]["index"] for found in manifests]),
            "tokenizer_fingerprint": shard_sets[0].tokenizer().fingerprint,
            "template": manifests[0]["template"],
            "max_tokens": max(found["max_tokens"] for found in manifests),
            "stored_image_size": manifests[0].get("image", {}).get("size"),
        },
    )


def check_same_run(identity: Identity, checkpoint: Checkpoint) -> None:
    """Raise ValueError if `checkpoint` was made by another run than this one."""
    for name, what in (
        ("index_digest", "shards"),
        ("tokenizer_fingerprint", "tokenizer"),
        ("template", "template"),
    ):
        old, new = checkpoint.shards[name], identity.shards[name]
        if old != new:
            raise ValueError(
                f"{checkpoint.folder}: made with other {what} than this run: "
                f"{name} {old} there, {new} here; choose another run.out"
            )
    _check_settings(checkpoint.state["settings"], identity.settings, folder=str(checkpoint.folder))


def _check_settings(old: Mapping[str, Any], new: Mapping[str, Any], *, folder: str) -> None:
    names = (name for name in sorted({*old, *new}) if old.get(name) != new.get(name))
    changed = next(names, None)
    if changed is not None:
        raise ValueError(
            f"{folder}: made with {changed} = {old.get(changed)!r}, this run has "
            f"{new.get(changed)!r} (settings {digest(old)} there, {digest(new)} here); "
            f'choose another run.out; model.start_from = "{folder}" begins a run with its weights'
        )
