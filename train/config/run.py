"""RunConfig: everything that defines one training run, read strictly from one TOML file.

Paths are relative to the folder the command runs in. The file as read, with its overrides, is
saved with every checkpoint. A field without a default must be given. `vchat-train run` compares
the fields that shape the result (`shaping`) with those of the checkpoint it continues from. The
fields of `[model]` are in `model_config.py`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from vchat.base.toml_config import read_toml, to_table
from vchat.shards.plan.arguments import SourceShare
from vchat.shards.storage.config import StorageConfig
from vchat.train.config.model import ModelConfig

Part = Literal["embeddings", "head", "decoder", "projection", "tower"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedShards:
    """One of several shard sets of a run."""

    path: str
    """Folder or URL of a finished shard set."""

    weight: float = 1.0
    """Draws per sample and epoch, times those of its source in `data.mix`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Which samples, in which order, packed into which rows."""

    shards: str | tuple[WeightedShards, ...]
    """Folder or URL of a finished shard set (it holds `manifest.json`), or several as
    `[[data.shards]] path, weight`: made with the same tokenizer and template, read as one."""

    tokens_per_row: int
    """Positions in one packed row, image positions included. Sets memory and speed."""

    images_per_row: int
    """Maximum number of images in one packed row."""

    split: str = "train"
    """Split of the shard set that is trained on."""

    eval_split: str = "eval"
    """Split whose loss is measured every `run.eval_every` steps."""

    shuffle_window_shards: int = 16
    """Samples are shuffled over this many neighbouring shards; more mix better, and read wider."""

    lanes: int = 16
    """Parallel streams that an epoch is dealt from; about world size times readers. Fixed at
    launch."""

    balanced_rows: int = 1
    """Consecutive rows that should hold equally many images, about ranks times rows per
    micro-batch, so that no rank waits for another; 1 does not reorder rows."""

    mix: tuple[SourceShare, ...] = ()
    """`[[data.mix]] source, weight, cap`: how much of a source one epoch draws; else all, once."""

    exclude: Path | None = None
    """A list of sample keys to leave out: text lines, or Parquet with a column `key`. It may change
    between epochs, not within one."""

    on_too_long: Literal["error", "exclude"] = "error"
    """A sample that fits no row stops the run before it starts, or is left out and listed."""

    tail: Literal["pad", "drop"] = "pad"
    """The last rows of an epoch fill a step with zero-weight rows, or are left out."""

    on_fault: Literal["raise", "skip"] = "raise"
    """A sample that cannot be read, after all retries, stops the run or is delivered without labels
    and with black images, logged and counted."""

    max_skipped: int = 100
    """More such samples of one rank in an epoch stop the run in any case."""

    def __post_init__(self) -> None:
        if not self.shards:
            raise ValueError("shards must name at least one shard set")

    @property
    def sets(self) -> tuple[WeightedShards, ...]:
        """All shard sets, the only one too."""
        if isinstance(self.shards, str):
            return (WeightedShards(path=self.shards),)
        return self.shards

    @property
    def set_weights(self) -> tuple[float, ...]:
        """One for each set, or none if every set is drawn whole, once."""
        weights = tuple(shards.weight for shards in self.sets)
        return () if set(weights) == {1.0} else weights


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Which weights are trained, and in which precision."""

    parts: tuple[Part, ...] = ("embeddings", "projection")
    """Trained parts; all others are frozen. `decoder` is its layers and last norm; tied embeddings
    and head are one part, trained if either is named."""

    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Of weights and activations. The optimizer keeps fp32 copies."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: about a third slower, far less memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchConfig:
    """How many packed rows make one optimizer step."""

    rows_per_step: int
    """Across all ranks and micro-batches. The learning rate is tuned for this number."""

    rows_per_micro_batch: int = 1
    """On one rank. Changes memory and speed, never the result."""

    def __post_init__(self) -> None:
        if self.rows_per_step < 1 or self.rows_per_micro_batch < 1:
            raise ValueError("rows_per_step and rows_per_micro_batch must be at least 1")

    def micro_batches(self, world_size: int) -> int:
        """Return how many micro-batches each rank accumulates per optimizer step.

        The last one may hold zero-weight rows, so that any world size sees the same step.
        """
        if world_size < 1:
            raise ValueError(f"world size must be at least 1 process, got {world_size}")
        return math.ceil(self.rows_per_step / (world_size * self.rows_per_micro_batch))


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """AdamW and the schedule of its learning rate."""

    lr: float
    """Learning rate after warm-up."""

    betas: tuple[float, ...] = (0.9, 0.95)
    """Decay of the running mean of gradients, and of their squares."""

    eps: float = 1e-8
    """Added to the square root of the second."""

    weight_decay: float = 0.0
    """For matrices; vectors (norms, biases) are never decayed."""

    warmup_steps: int = 0
    """The rate grows linearly over so many steps."""

    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls from the end of warm-up to the last step."""

    final_lr_fraction: float = 0.0
    """Rate at the last step, as a fraction of `lr`."""

    embedding_lr: float | None = None
    """Another rate for the token embeddings, on the same schedule; by default `lr`."""

    clip_norm: float = 1.0
    """Gradients are scaled down to this global norm; 0 does not clip."""

    on_bad_loss: Literal["stop", "skip"] = "stop"
    """What to do if a loss is not a number, infinite, above `max_loss` or a spike: end the run,
    naming the samples, or skip the micro-batch and log them."""

    max_loss: float | None = None
    """Mean loss per token above which a micro-batch counts as bad; by default there is no limit."""

    spike_factor: float | None = None
    """The same limit as a multiple of the median loss of the latest 50 steps (10 at least)."""

    def __post_init__(self) -> None:
        if len(self.betas) != 2:
            raise ValueError(f"betas wants two numbers, got {list(self.betas)}")
        if self.spike_factor is not None and self.spike_factor <= 1:
            raise ValueError(f"spike_factor must be above 1, got {self.spike_factor}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepSpeedConfig:
    """How weights and optimizer state are partitioned over ranks."""

    zero_stage: Literal[0, 1, 2, 3] = 0
    """0 copies all to each rank; 1 partitions optimizer state, 2 also gradients, 3 also weights."""

    offload_optimizer: Literal["none", "cpu", "nvme"] = "none"
    """Where optimizer state lives: `cpu` at stage 1 and up, `nvme` at stage 3. From `nvme`
    DeepSpeed does not restore Adam's moments: a resumed run warns that they start anew."""

    offload_parameters: Literal["none", "cpu", "nvme"] = "none"
    """Where weights live when not in use (stage 3). `nvme` rounds those of fp32 runs to bf16."""

    nvme_folder: Path | None = None
    """Folder on a fast local disk, the same path on every host; needed by `nvme`."""

    @property
    def uses_nvme(self) -> bool:
        """Whether weights or optimizer state live on a disk."""
        return "nvme" in (self.offload_optimizer, self.offload_parameters)

    def __post_init__(self) -> None:
        if self.offload_optimizer != "none" and self.zero_stage < 1:
            raise ValueError(f"offload_optimizer needs zero_stage 1 to 3, got {self.zero_stage}")
        if self.offload_parameters != "none" and self.zero_stage < 3:
            raise ValueError(f"offload_parameters needs zero_stage 3, got {self.zero_stage}")
        if self.offload_optimizer == "nvme" and self.zero_stage < 3:
            raise ValueError(f"offload_optimizer = nvme needs zero_stage 3, got {self.zero_stage}")
        if self.uses_nvme and not self.nvme_folder:
            raise ValueError("offloading to nvme needs deepspeed.nvme_folder")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputConfig:
    """How long the run is, and what it writes."""

    out: Path
    """Folder of checkpoints and the log. If it holds a checkpoint of this run, the run resumes: as
    trusted as code."""

    mirror: str | None = None
    """URL (`s3://bucket/run`) that every complete checkpoint is copied to, the log too. A run whose
    `out` lacks the newest one fetches it from there: as trusted as `out`."""

    steps: int | None = None
    """Optimizer steps in all. Give this or `epochs`."""

    epochs: int | None = None
    """Passes over the training split."""

    seed: int = 0
    """Of the order of samples, of new weights and of dropout."""

    save_every: int = 500
    """Steps between checkpoints; one is always written at the end."""

    save_in_background: bool = True
    """Train on while a checkpoint is written; costs the memory of a copy of what a rank saves."""

    keep_last: int = 2
    """Older checkpoints are removed; 0 keeps all."""

    eval_every: int = 500
    """Steps between measurements of the held-out loss, also taken at the end; 0 never. A run that
    a signal ends skips that of its last step, to save at once."""

    log_every: int = 1
    """Steps between lines of `log.jsonl`."""

    tensorboard: bool = False
    """Write the log to OUT/tensorboard too. Needs the extra `watch`."""

    wandb: str | None = None
    """Project at Weights & Biases that the log goes to too; with WANDB_MODE=offline it stays in
    OUT/wandb. Needs the extra `watch`."""

    gpu_tflops: float | None = None
    """What one accelerator does at best, 10^12 operations per second: the log states the share
    that is reached (MFU). By default looked up by the accelerator's name."""

    hang_timeout_s: float = 1800.0
    """If a step, with its evaluation and saving, takes longer, every rank prints its stacks and
    exits with code 1; 0 waits for ever."""

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        if self.save_every < 1 or self.log_every < 1:
            raise ValueError("save_every and log_every must be at least 1 step")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """One training run. Each field is a section of the file."""

    data: DataConfig
    model: ModelConfig
    batch: BatchConfig
    optimizer: OptimizerConfig
    run: OutputConfig
    train: TrainConfig = field(default_factory=TrainConfig)
    deepspeed: DeepSpeedConfig = field(default_factory=DeepSpeedConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)


def read_run(path: Path, *, overrides: Sequence[str] = ()) -> RunConfig:
    """Read RUN.toml. Raises `WrongKeyError` naming file, key and the nearest known key."""
    return read_toml(RunConfig, path, overrides=overrides)


def find_run_file(run_file: Path) -> Path:
    """Return the file itself, or the shipped run of that name if there is no such file here."""
    shipped = Path(__file__).parent / "runs" / run_file.name
    is_bare_name = run_file.name == str(run_file)
    return shipped if is_bare_name and not run_file.exists() and shipped.is_file() else run_file


FREE_TO_CHANGE = (
    "data.shards",  # sets are compared by their digests, they may have moved
    "data.exclude",  # compared by its keys, in the loader's state
    "data.on_fault",
    "data.max_skipped",
    "model.start_from",
    "batch.rows_per_micro_batch",
    "train.gradient_checkpointing",
    "deepspeed.offload_optimizer",
    "deepspeed.offload_parameters",
    "deepspeed.nvme_folder",
    "run.out",
    "run.mirror",
    "run.save_every",
    "run.save_in_background",
    "run.keep_last",
    "run.eval_every",
    "run.log_every",
    "run.tensorboard",
    "run.wandb",
    "run.gpu_tflops",
    "run.hang_timeout_s",
    "optimizer.on_bad_loss",
    "optimizer.max_loss",
    "optimizer.spike_factor",
    *(f"storage.{each.name}" for each in fields(StorageConfig)),
)


def result_settings(config: RunConfig) -> dict[str, Any]:
    """Return the fields that shape the result, as `section.key` -> JSON value."""
    flat = {
        f"{section}.{key}": value
        for section, table in to_table(config).items()
        for key, value in table.items()
    }
    weights = {"data.set_weights": list(config.data.set_weights)} if config.data.set_weights else {}
    return {name: value for name, value in flat.items() if name not in FREE_TO_CHANGE} | weights


def settings_digest(values: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of the sorted JSON of a table of settings."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
