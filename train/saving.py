"""Save a running engine into a checkpoint folder, and load one back. All ranks take part."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from vchat.shards.tokens import TextTokenizer
from vchat.train import checkpoint as folder_of
from vchat.train.checkpoint import FORMAT_VERSION, Checkpoint, verify, write_json
from vchat.train.config import RunConfig
from vchat.train.engine import whole_weights
from vchat.train.identity import Identity
from vchat.train.strict_toml import to_toml

TAG = "deepspeed"


def save_checkpoint(
    engine: deepspeed.DeepSpeedEngine,
    config: RunConfig,
    *,
    step: int,
    loader_state: dict[str, Any],
    identity: Identity,
    tokenizer: TextTokenizer,
) -> None:
    """Write `OUT/step-...` whole. A crash at any moment leaves the earlier checkpoints as they are.

    Every rank writes its optimizer state and random state; rank 0 the rest. Each rank reads back
    and hashes its share of the files; rank 0 renames when all are done.
    """
    out, rank = config.run.out, dist.get_rank()
    if rank == 0:
        folder_of.begin(out, step=step)
    dist.barrier()
    part = folder_of.part_folder(out, step=step)
    engine.save_checkpoint(str(part), tag=TAG, save_latest=False, exclude_frozen_parameters=True)
    _save_random_state(part, rank)
    weights = whole_weights(engine)
    if rank == 0:
        engine.module.save_pretrained(part / "model", state_dict=weights)
        tokenizer.save(part / "tokenizer")
        (part / "run.toml").write_text(to_toml(config), encoding="utf-8")
        write_json(part / "shards.json", identity.shards)
        write_json(part / "state.json", _state(config, step, loader_state, identity))
    dist.barrier()
    facts = _facts_from_all_ranks(part, rank)
    if rank == 0:
        folder_of.finish(out, step=step, facts=facts, keep_last=config.run.keep_last)
    dist.barrier()


def load_checkpoint(engine: deepspeed.DeepSpeedEngine, checkpoint: Checkpoint) -> None:
    """Put trained weights, optimizer and random state back; the engine is fresh, all ranks call it.

    DeepSpeed's files are pickles: each is compared with its listed SHA-256 before it is read.

    Raises:
        ValueError: if a file changed since it was saved, or the ranks do not fit.
    """
    check_topology(engine, checkpoint)
    rank, world_size = dist.get_rank(), dist.get_world_size()
    verify(checkpoint, sorted(checkpoint.files)[rank::world_size])
    dist.barrier()
    path, _ = engine.load_checkpoint(str(checkpoint.folder), tag=TAG, load_module_strict=False)
    if path is None:
        raise ValueError(f"{checkpoint.folder / TAG}: DeepSpeed found no state to load there")
    _load_random_state(checkpoint, rank)


def check_topology(engine: deepspeed.DeepSpeedEngine, checkpoint: Checkpoint) -> None:
    """Raise ValueError unless DeepSpeed can load this state on the processes of this run."""
    old, new = checkpoint.state["world_size"], dist.get_world_size()
    stage = engine.zero_optimization_stage()
    if old != new and stage > 0:
        raise ValueError(
            f"{checkpoint.folder}: saved by {old} processes under ZeRO stage {stage}, "
            f"this run has {new}; start {old} processes"
        )


def _state(
    config: RunConfig, step: int, loader_state: dict[str, Any], identity: Identity
) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "step": step,
        "loader": loader_state,
        "world_size": dist.get_world_size(),
        "zero_stage": config.deepspeed.zero_stage,
        "settings": identity.settings,
        "versions": {name: version(name) for name in ("torch", "transformers", "deepspeed")},
    }


def _facts_from_all_ranks(part: Path, rank: int) -> dict[str, dict[str, Any]]:
    world_size = dist.get_world_size()
    mine = folder_of.facts_of(part, folder_of.file_names(part)[rank::world_size])
    gathered: list[dict[str, dict[str, Any]]] = [{} for _ in range(world_size)]
    dist.all_gather_object(gathered, mine)
    return {name: fact for facts in gathered for name, fact in facts.items()}


def _rng_file(rank: int) -> str:
    return f"rng/rank-{rank:05d}.safetensors"


def _save_random_state(part: Path, rank: int) -> None:
    """Keep the generators dropout draws from; our own code uses no global random state."""
    states = {"cpu": torch.get_rng_state()}
    if torch.accelerator.is_available():
        states["device"] = torch.get_device_module().get_rng_state()
    file = part / _rng_file(rank)
    file.parent.mkdir(exist_ok=True)
    save_file(states, file)


def _load_random_state(checkpoint: Checkpoint, rank: int) -> None:
    """A rank that the saving run did not have keeps the state it started with."""
    if _rng_file(rank) not in checkpoint.files:
        return
    states = load_file(checkpoint.folder / _rng_file(rank))
    torch.set_rng_state(states["cpu"])
    if "device" in states and torch.accelerator.is_available():
        torch.get_device_module().set_rng_state(states["device"])
