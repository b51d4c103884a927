"""Save a running engine into a checkpoint folder. All ranks take part."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from safetensors.torch import save_file

from vchat.shards.plan.excluded_keys import ExcludeHistory
from vchat.shards.text.tokenizer import TextTokenizer
from vchat.train.checkpoints.background import Background
from vchat.train.checkpoints.checkpoint import FORMAT_VERSION
from vchat.train.checkpoints.exclude_lists import write_exclude_lists
from vchat.train.checkpoints.frozen_weights import (
    describe_frozen_file,
    save_trained,
    store_frozen_weights,
)
from vchat.train.checkpoints.identity import RunIdentity
from vchat.train.checkpoints.mirror import Mirror
from vchat.train.checkpoints.random_state import random_state_file, read_random_state
from vchat.train.checkpoints.state_capture import StateCapture, capture_state
from vchat.train.checkpoints.step_folder import (
    create_part_folder,
    finish_after_all_ranks,
    part_folder,
    report_files,
    write_json,
)
from vchat.train.engine.engine import gather_all_weights, gather_weights

TAG = "deepspeed"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointWriter:
    """Writes the checkpoints of one run. Every rank has one."""

    out: Path
    """The run's folder."""

    run_toml: str
    """The configuration, overrides applied."""

    identity: RunIdentity
    tokenizer: TextTokenizer
    exclude_history: ExcludeHistory
    """The keys that each epoch leaves out."""

    keep_last: int
    """Older checkpoints are removed; 0 keeps all."""

    mirror: Mirror | None
    """Where rank 0 copies every complete checkpoint, if anywhere."""

    background: Background
    """Writes the files."""

    trains_on: bool
    """Whether training continues while the files are written."""

    def save(
        self,
        engine: deepspeed.DeepSpeedEngine,
        *,
        step: int,
        loader_state: dict[str, Any],
        loop_state: dict[str, Any],
    ) -> None:
        """Write `OUT/step-...` whole. A crash at any moment leaves earlier checkpoints as they are.

        All ranks copy their state, then train on while it is written; only writing frozen weights,
        once in a run, blocks. Every rank writes its optimizer state and random state; rank 0 the
        rest. Each reads back and hashes what it wrote; rank 0 gives the folder its name when all
        are done.

        Args:
            engine: What is saved.
            step: The latest step.
            loader_state: Where the data goes on.
            loop_state: What else the loop remembers, by its name in `state.json`.
        """
        rank = dist.get_rank()
        self.background.wait()
        dist.barrier()
        if rank == 0:
            create_part_folder(self.out, step=step)
        dist.barrier()
        snapshot = _copy_what_is_saved(engine, self.out, step=step)
        facts = self._facts(engine, step, loader_state) | loop_state

        def write(cancel: threading.Event) -> None:
            names = snapshot.write_own_files(rank)
            if rank == 0:
                self._write_shared_files(engine, snapshot, facts)
                self._finish(snapshot.frozen, facts, cancel=cancel)
            else:
                report_files(self.out, names, step=step, rank=rank)

        self.background.start(write)
        if not self.trains_on:
            self.background.wait()
            dist.barrier()

    def _write_shared_files(
        self, engine: deepspeed.DeepSpeedEngine, snapshot: _Snapshot, facts: dict[str, Any]
    ) -> None:
        """Write the model, and what is the same for all ranks."""
        part, weights, frozen = snapshot.part, snapshot.weights, snapshot.frozen
        if frozen is None:
            engine.module.save_pretrained(part / "model", state_dict=weights)
        else:
            save_trained(engine, part / "model", weights=weights, frozen=frozen)
        self.tokenizer.save(part / "tokenizer")
        (part / "run.toml").write_text(self.run_toml, encoding="utf-8")
        shards = {**self.identity.shards, "image_size": engine.module.config.image_size}
        write_json(part / "shards.json", shards)
        write_exclude_lists(part, self.exclude_history)
        write_json(part / "state.json", facts)

    def _finish(
        self, frozen: Path | None, facts: dict[str, Any], *, cancel: threading.Event
    ) -> None:
        """Give the folder its name when all ranks have written, then copy it."""
        complete = finish_after_all_ranks(
            self.out,
            step=facts["step"],
            num_ranks=facts["world_size"],
            keep_last=self.keep_last,
            outside_facts={} if frozen is None else describe_frozen_file(frozen),
            cancel=cancel,
        )
        if complete and self.mirror is not None:
            self.mirror.upload(complete, log=self.out / "log.jsonl", keep_last=self.keep_last)

    def _facts(
        self, engine: deepspeed.DeepSpeedEngine, step: int, loader_state: dict[str, Any]
    ) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "step": step,
            "loader": loader_state,
            "world_size": dist.get_world_size(),
            "zero_stage": engine.zero_optimization_stage(),
            "settings": self.identity.settings,
            "versions": {name: version(name) for name in ("torch", "transformers", "deepspeed")},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Snapshot:
    """What one rank saves, copied while no step is made."""

    part: Path
    """The folder that it is written into."""

    engine_state: StateCapture
    random_state: dict[str, torch.Tensor]

    weights: dict[str, torch.Tensor]
    """The whole model, or its trained weights; empty on ranks other than 0."""

    frozen: Path | None
    """The file with the other weights; None if all are trained."""

    def write_own_files(self, rank: int) -> list[str]:
        """Write the files that every rank has of its own; return their names."""
        names = [str(path.relative_to(self.part)) for path in self.engine_state.states]
        self.engine_state.write()
        save_file(self.random_state, self.part / random_state_file(rank))
        return [*names, random_state_file(rank)]


def _copy_what_is_saved(engine: deepspeed.DeepSpeedEngine, out: Path, *, step: int) -> _Snapshot:
    part = part_folder(out, step=step)
    engine_state, random_state = capture_state(engine, part, tag=TAG), read_random_state()
    frozen = store_frozen_weights(engine, out)
    whole = frozen is None
    weights = gather_all_weights(engine) if whole else gather_weights(engine, is_trained=True)
    return _Snapshot(
        part=part,
        engine_state=engine_state,
        random_state=random_state,
        weights=weights,
        frozen=frozen,
    )
