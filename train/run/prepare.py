"""From a configuration to an engine and its data, where the newest checkpoint left them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist

from vchat.base.toml_config import to_toml
from vchat.model.visual_chat import VisualChat
from vchat.shards.text.tokenizer import TextTokenizer
from vchat.train.checkpoints.background import Background
from vchat.train.checkpoints.checkpoint import Checkpoint, open_checkpoint
from vchat.train.checkpoints.exclude_lists import continue_lists, write_exclude_lists
from vchat.train.checkpoints.facts import check_resumable
from vchat.train.checkpoints.identity import RunIdentity, check_same_run, shard_facts
from vchat.train.checkpoints.mirror import Mirror, download_if_newer
from vchat.train.checkpoints.restoring import load_checkpoint
from vchat.train.checkpoints.saving import CheckpointWriter
from vchat.train.checkpoints.step_folder import find_newest
from vchat.train.checkpoints.universal import needs_conversion
from vchat.train.config.model import ModelConfig
from vchat.train.config.run import RunConfig, result_settings
from vchat.train.engine.deepspeed_config import deepspeed_dictionary
from vchat.train.engine.engine import DTYPES, start_engine
from vchat.train.engine.nvme import prepare_nvme
from vchat.train.engine.processes import RankShare
from vchat.train.engine.starting_model import build_model, load_model, read_sizes
from vchat.train.engine.weight_loading import WeightLoading
from vchat.train.run.data import RunData, open_run_shards, read_exclude_list
from vchat.train.step.bad_loss import LossLimit
from vchat.train.step.skipped_updates import SkippedUpdates


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A run whose engine and data stand where its newest checkpoint left them."""

    engine: deepspeed.DeepSpeedEngine
    data: RunData
    limit: LossLimit
    skipped: SkippedUpdates
    writer: CheckpointWriter

    def save(self, step: int) -> None:
        """Write the checkpoint of a step; all ranks call it."""
        self.writer.save(
            self.engine,
            step=step,
            loader_state=self.data.state(),
            loop_state={
                "recent_losses": list(self.limit.recent),
                "skipped_updates": self.skipped.counts(),
            },
        )


def prepare_run(config: RunConfig, share: RankShare, *, background: Background) -> RunState:
    """Make model, data and engine, and put them where the newest checkpoint left them.

    Raises:
        ValueError: that checkpoint belongs to another run, or the parts that the configuration
            names do not fit together.
    """
    if config.deepspeed.uses_nvme:
        prepare_nvme()
    shard_sets = open_run_shards(config.data, storage=config.storage)
    tokenizer = shard_sets[0].tokenizer()
    identity = RunIdentity(settings=result_settings(config), shards=shard_facts(shard_sets))
    mirror = open_mirror(config, rank=share.rank)
    checkpoint = choose_checkpoint(config.run.out, mirror=mirror)
    if checkpoint is not None:
        check_resumable(checkpoint.folder / "state.json", checkpoint.state)
        check_same_run(identity, checkpoint)
    settings = read_deepspeed_settings(config, checkpoint, world_size=share.world_size)
    model = load_or_build_model(
        config.model,
        tokenizer,
        seed=config.run.seed,
        checkpoint=checkpoint,
        loading=WeightLoading(
            dtype=DTYPES[config.train.precision],
            partition_settings=settings if config.deepspeed.zero_stage == 3 else None,
        ),
    )
    sizes = read_sizes(model)
    data = RunData(
        shard_sets,
        config.data,
        config.batch,
        config.run,
        sizes=sizes,
        share=share,
        exclude_history=continue_lists(checkpoint, read_exclude_list(config.data)),
    )
    engine = start_engine(model, config.train, config.optimizer, deepspeed_settings=settings)
    torch.manual_seed(config.run.seed + share.rank)  # dropout differs between ranks
    limit, skipped = LossLimit(config.optimizer), SkippedUpdates()
    if checkpoint is not None:
        load_checkpoint(engine, checkpoint)
        data.resume(checkpoint.state["loader"], steps_done=checkpoint.step)
        limit = LossLimit(config.optimizer, recent=checkpoint.state.get("recent_losses", []))
        skipped = SkippedUpdates(checkpoint.state.get("skipped_updates"))
    if share.rank == 0:
        write_exclude_lists(config.run.out, data.exclude_history)
    writer = CheckpointWriter(
        out=config.run.out,
        run_toml=to_toml(config),
        identity=identity,
        tokenizer=tokenizer,
        exclude_history=data.exclude_history,
        keep_last=config.run.keep_last,
        mirror=mirror,
        background=background,
        trains_on=config.run.save_in_background,
    )
    return RunState(engine=engine, data=data, limit=limit, skipped=skipped, writer=writer)


def read_deepspeed_settings(
    config: RunConfig, checkpoint: Checkpoint | None, *, world_size: int
) -> dict[str, Any]:
    """Return DeepSpeed's dictionary for this run, which may load a checkpoint of other ranks."""
    zero_stage = config.deepspeed.zero_stage
    return deepspeed_dictionary(
        config.deepspeed,
        config.batch,
        precision=config.train.precision,
        clip_norm=config.optimizer.clip_norm,
        world_size=world_size,
        load_universal=checkpoint is not None
        and needs_conversion(checkpoint, zero_stage=zero_stage, world_size=world_size),
    )


def load_or_build_model(
    config: ModelConfig,
    tokenizer: TextTokenizer,
    *,
    seed: int,
    checkpoint: Checkpoint | None,
    loading: WeightLoading,
) -> VisualChat:
    """Return the model of the checkpoint, or the one the configuration describes."""
    if checkpoint is not None:
        return load_model(checkpoint.folder, loading=loading)
    return build_model(
        config,
        image_token_id=tokenizer.image_id,
        num_ids=tokenizer.num_ids,
        seed=seed,
        loading=loading,
    )


def open_mirror(config: RunConfig, *, rank: int) -> Mirror | None:
    """Connect rank 0 to the copies of the run, if it has any."""
    if rank != 0 or config.run.mirror is None:
        return None
    return Mirror(config.run.mirror, storage=config.storage)


def choose_checkpoint(out: Path, *, mirror: Mirror | None) -> Checkpoint | None:
    """Return the newest complete checkpoint as rank 0 sees it, the same on all ranks, or None."""
    found = [""]
    if dist.get_rank() == 0:
        if mirror is not None:
            download_if_newer(mirror, out)
        found = [str(find_newest(out) or "")]
    dist.broadcast_object_list(found, src=0)
    return open_checkpoint(Path(found[0])) if found[0] else None
