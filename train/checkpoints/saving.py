"""Save a running engine into a checkpoint folder, and load one back. All ranks take part."""

from __future__ import annotations

import logging
import shutil
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from vchat.base.toml_config import to_toml
from vchat.shards.text.tokenizer import TextTokenizer
from vchat.train.checkpoints import checkpoint as folder_of
from vchat.train.checkpoints.background import Background
from vchat.train.checkpoints.checkpoint import FORMAT_VERSION, Checkpoint, verify_files, write_json
from vchat.train.checkpoints.frozen_weights import (
    describe_frozen_file,
    save_trained,
    store_frozen_weights,
)
from vchat.train.checkpoints.identity import RunIdentity
from vchat.train.checkpoints.mirror import Mirror
from vchat.train.checkpoints.state_capture import capture_state
from vchat.train.checkpoints.universal import convert_state
from vchat.train.config.run import RunConfig
from vchat.train.engine.engine import gather_all_weights, gather_weights

TAG = "deepspeed"
LOG = logging.getLogger(__name__)


def save_checkpoint(
    engine: deepspeed.DeepSpeedEngine,
    config: RunConfig,
    *,
    step: int,
    loader_state: dict[str, Any],
    recent_losses: list[float],
    identity: RunIdentity,
    tokenizer: TextTokenizer,
    background: Background,
) -> None:
    """Write `OUT/step-...` whole. A crash at any moment leaves the earlier checkpoints as they are.

    All ranks copy what they hold, then train on while it is written; only frozen weights, once in a
    run, are waited for. Every rank writes its optimizer state and random state; rank 0 the rest.
    Each reads back and hashes what it wrote; rank 0 gives the folder its name when all are done.
    """
    out, rank = config.run.out, dist.get_rank()
    background.wait()
    dist.barrier()
    if rank == 0:
        folder_of.create_part_folder(out, step=step)
    dist.barrier()
    part = folder_of.part_folder(out, step=step)
    state, random_state = capture_state(engine, part, tag=TAG), _random_state()
    frozen = store_frozen_weights(engine, out)
    weights = (
        gather_all_weights(engine) if frozen is None else gather_weights(engine, is_trained=True)
    )
    facts = _state_facts(config, step, loader_state, identity) | {"recent_losses": recent_losses}

    def write(given_up: threading.Event) -> None:
        names = [str(path.relative_to(part)) for path in state.states]
        state.write()
        save_file(random_state, part / _rng_file(rank))
        if rank == 0:
            _save_model(engine, part / "model", weights=weights, frozen=frozen)
            tokenizer.save(part / "tokenizer")
            (part / "run.toml").write_text(to_toml(config), encoding="utf-8")
            write_json(part / "shards.json", _shards_facts(engine, identity))
            write_json(part / "state.json", facts)
            _finish_on_rank_0(config, step=step, facts=facts, frozen=frozen, cancel=given_up)
        else:
            folder_of.report_files(out, [*names, _rng_file(rank)], step=step, rank=rank)

    background.start(write)
    if not config.run.save_in_background:
        background.wait()
        dist.barrier()


def _save_model(
    engine: deepspeed.DeepSpeedEngine,
    folder: Path,
    *,
    weights: dict[str, torch.Tensor],
    frozen: Path | None,
) -> None:
    """Save the model whole, or what is trained of it and where the frozen rest lies."""
    if frozen is None:
        engine.module.save_pretrained(folder, state_dict=weights)
    else:
        save_trained(engine, folder, weights=weights, frozen=frozen)


def _finish_on_rank_0(
    config: RunConfig,
    *,
    step: int,
    facts: dict[str, Any],
    frozen: Path | None,
    cancel: threading.Event,
) -> None:
    """On rank 0: give the folder its name when all ranks have written, then copy it."""
    complete = folder_of.finish_after_all_ranks(
        config.run.out,
        step=step,
        num_ranks=facts["world_size"],
        keep_last=config.run.keep_last,
        outside_facts={} if frozen is None else describe_frozen_file(frozen),
        cancel=cancel,
    )
    if complete and config.run.mirror:
        mirror = Mirror(config.run.mirror, storage=config.storage)
        mirror.upload(complete, log=config.run.out / "log.jsonl", keep_last=config.run.keep_last)


def load_checkpoint(engine: deepspeed.DeepSpeedEngine, checkpoint: Checkpoint) -> None:
    """Put trained weights, optimizer and random state back; the engine is fresh, all ranks call it.

    DeepSpeed's files are pickles: each is compared with its listed SHA-256 before it is read.

    Raises:
        ValueError: if a file changed since it was saved.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    verify_files(checkpoint, sorted(checkpoint.files)[rank::world_size])
    dist.barrier()
    if engine.load_universal_checkpoint():
        place = convert_state(checkpoint, tag=TAG)
        _load_engine_state(engine, place)
        dist.barrier()
        if rank == 0:
            shutil.rmtree(place)
    else:
        _load_engine_state(engine, checkpoint.folder)
    _load_random_state(checkpoint, rank)


def _load_engine_state(engine: deepspeed.DeepSpeedEngine, folder: Path) -> None:
    """Let DeepSpeed read its files, and undo what its stage 3 does with a universal checkpoint.

    There every parameter group gets the settings of the first, and all parameters share one step
    counter, which each of them then counts up.
    """
    groups = engine.optimizer.param_groups
    settings = [{k: v for k, v in group.items() if k != "params"} for group in groups]
    path, _ = engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
    if path is None:
        raise ValueError(f"{folder / TAG}: DeepSpeed found no state to load there")
    for group, configured in zip(engine.optimizer.param_groups, settings, strict=True):
        group.update(configured)
    for state in engine.basic_optimizer.state.values():
        state["step"] = state["step"].clone()
    if engine.zero_nvme_offload_optimizer() and dist.get_rank() == 0:
        LOG.warning(
            "deepspeed.offload_optimizer = nvme: DeepSpeed saves but does not restore the moments "
            "of Adam, so they start anew from here; the weights are those of the checkpoint"
        )


def _shards_facts(engine: deepspeed.DeepSpeedEngine, identity: RunIdentity) -> dict[str, Any]:
    return {**identity.shards, "image_size": engine.module.config.image_size}


def _state_facts(
    config: RunConfig, step: int, loader_state: dict[str, Any], identity: RunIdentity
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


def _rng_file(rank: int) -> str:
    return f"rng/rank-{rank:05d}.safetensors"


def _random_state() -> dict[str, torch.Tensor]:
    """The generators dropout draws from; our own code uses no global random state."""
    states = {"cpu": torch.get_rng_state()}
    if torch.accelerator.is_available():
        states["device"] = torch.get_device_module().get_rng_state()
    return states


def _load_random_state(checkpoint: Checkpoint, rank: int) -> None:
    """A rank that the saving run did not have keeps the state it started with."""
    if _rng_file(rank) not in checkpoint.files:
        return
    states = load_file(checkpoint.folder / _rng_file(rank))
    torch.set_rng_state(states["cpu"])
    if "device" in states and torch.accelerator.is_available():
        torch.get_device_module().set_rng_state(states["device"])
