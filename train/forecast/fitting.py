"""Judge whether a run fits its GPUs, and find the settings that would make it fit.

In: a function from a configuration to its memory. Out: the smallest set of changes after which the
run fits, cheap ones first, and the number of GPUs on which it fits without a change.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from vchat.train.config.run import RunConfig

RESERVED_SHARE = 0.1
"""Share of a GPU's memory reserved for its runtime, communication buffers and fragmentation."""

MAX_GPUS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One setting that saves memory, and what it costs."""

    setting: str
    """As `--set` takes it."""

    cost: str
    apply: Callable[[RunConfig], RunConfig]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a run fits, and what would make it fit."""

    fits: bool
    needed_bytes: int
    usable_bytes: int
    """Memory of one GPU without the reserved share."""

    changes: tuple[Change, ...]
    """The fewest that make it fit; empty if it fits already, or if no changes help."""

    needed_after: int | None
    """Bytes with these changes; None without changes."""

    gpus: int | None
    """The fewest GPUs, a power of two times the given number, on which it fits unchanged."""


def judge_fit(
    config: RunConfig,
    bytes_needed: Callable[[RunConfig, int], int],
    *,
    gpu_memory_gb: float,
    num_gpus: int,
) -> Verdict:
    """Compare the memory that a run needs with that of a GPU.

    Args:
        config: The run.
        bytes_needed: From a configuration and a number of GPUs to the bytes on one GPU.
        gpu_memory_gb: Of one GPU, 10^9 bytes.
        num_gpus: How many GPUs the run is planned for.
    """
    usable = round(gpu_memory_gb * 1e9 * (1 - RESERVED_SHARE))
    now = bytes_needed(config, num_gpus)
    fits = now <= usable
    changes = (
        () if fits else _fewest_changes(config, bytes_needed, usable=usable, num_gpus=num_gpus)
    )
    after = bytes_needed(apply_changes(config, changes), num_gpus) if changes else None
    more = (num_gpus * 2**i for i in itertools.count(1))
    enough = itertools.takewhile(lambda gpus: not fits and gpus <= MAX_GPUS, more)
    return Verdict(
        fits=fits,
        needed_bytes=now,
        usable_bytes=usable,
        changes=changes,
        needed_after=after,
        gpus=next((gpus for gpus in enough if bytes_needed(config, gpus) <= usable), None),
    )


def apply_changes(config: RunConfig, changes: Sequence[Change]) -> RunConfig:
    """Return the configuration with changes applied one after the other."""
    for change in changes:
        config = change.apply(config)
    return config


def possible_changes(config: RunConfig) -> list[Change]:
    """Return the settings that would save memory, cheap ones first; none alters the loss."""
    found = []
    if config.batch.rows_per_micro_batch > 1:
        found.append(_micro_batch())
    if not config.train.gradient_checkpointing:
        found.append(_checkpointing())
    stages: tuple[Literal[1, 2, 3], ...] = (1, 2, 3)
    found += [_stage(stage) for stage in stages if stage > config.deepspeed.zero_stage]
    if config.deepspeed.offload_optimizer == "none":
        found.append(_offload_optimizer())
    if config.deepspeed.offload_parameters == "none":
        found.append(_offload_parameters())
    return found


def _fewest_changes(
    config: RunConfig,
    bytes_needed: Callable[[RunConfig, int], int],
    *,
    usable: int,
    num_gpus: int,
) -> tuple[Change, ...]:
    possible = possible_changes(config)
    for count in range(1, len(possible) + 1):
        for changes in itertools.combinations(possible, count):
            try:
                other = apply_changes(config, changes)
            except ValueError:  # such as an offload without its stage
                continue
            if bytes_needed(other, num_gpus) <= usable:
                return changes
    return ()


def _micro_batch() -> Change:
    return Change(
        setting="batch.rows_per_micro_batch=1",
        cost="more micro-batches per step",
        apply=lambda config: replace(config, batch=replace(config.batch, rows_per_micro_batch=1)),
    )


def _checkpointing() -> Change:
    return Change(
        setting="train.gradient_checkpointing=true",
        cost="about a third more arithmetic",
        apply=lambda config: replace(
            config, train=replace(config.train, gradient_checkpointing=True)
        ),
    )


def _stage(stage: Literal[1, 2, 3]) -> Change:
    return Change(
        setting=f"deepspeed.zero_stage={stage}",
        cost="more communication" if stage == 3 else "little",
        apply=lambda config: replace(config, deepspeed=replace(config.deepspeed, zero_stage=stage)),
    )


def _offload_optimizer() -> Change:
    return Change(
        setting="deepspeed.offload_optimizer=cpu",
        cost="slower optimizer steps",
        apply=lambda config: replace(
            config, deepspeed=replace(config.deepspeed, offload_optimizer="cpu")
        ),
    )


def _offload_parameters() -> Change:
    return Change(
        setting="deepspeed.offload_parameters=cpu",
        cost="far slower",
        apply=lambda config: replace(
            config, deepspeed=replace(config.deepspeed, offload_parameters="cpu")
        ),
    )
