"""Toy shards, a toy RUN.toml, and launches of real runs on them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vchat.shards.format.sample import Sample, StoredImage, StoredRound
from vchat.shards.text.tokenizer import TextTokenizer
from vchat_testing.toy import publish_samples, sample_of, toy_tokenizer
from vchat_testing.warm import environment, free_port, run_ranks

BIN = Path(sys.executable).parent

RUN_TOML = """
[data]
shards = "{shards}"
tokens_per_row = 288
images_per_row = 3
lanes = 4

[model.tower]
model_type = "clip_vision_model"
image_size = 32
patch_size = 16
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 1
num_attention_heads = 2

[model.decoder]
model_type = "llama"
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 1

[train]
parts = ["embeddings", "head", "decoder", "projection", "tower"]
precision = "fp32"

[batch]
rows_per_step = 5

[optimizer]
lr = 3e-3
weight_decay = 0.1
warmup_steps = 2

[run]
out = "{out}"
steps = 12
save_every = 4
eval_every = 6
keep_last = 0
"""


def training_shards(folder: Path, *, seed: int = 0, num_train: int = 60) -> Path:
    """Write a finished shard set with text-only, one-image and two-image dialogues to learn.

    Args:
        folder: Made if absent; returned.
        seed: Of pictures and answers; they say nothing of each other.
        num_train: Samples in each of two shards of split `train`; split `eval` has 7.
    """
    tokenizer = TextTokenizer.load(toy_tokenizer(folder / "source-tokenizer"))
    rng = np.random.default_rng(seed)
    splits = ["train"] * 2 * num_train + ["eval"] * 7
    samples = [short_dialogue(rng, tokenizer, split, n) for n, split in enumerate(splits)]
    facts = {"max_tokens": 288, "positions_per_image": 5}
    publish_samples(
        folder, samples, tokenizer=tokenizer, samples_per_shard=max(num_train, 7), facts=facts
    )
    return folder


def short_dialogue(
    rng: np.random.Generator, tokenizer: TextTokenizer, split: str, number: int
) -> Sample:
    """One dialogue of one or two rounds about 0 to 2 plain-coloured images."""
    num_images = int(rng.integers(0, 3))
    images = tuple(plain_image(rng, f"toy:{number}/{i}") for i in range(num_images))
    answer = " ".join(rng.choice(["red", "blue", "green", "two"], size=int(rng.integers(1, 6))))
    shown = tuple(range(num_images))
    rounds = [StoredRound(images=shown, question="What color?", answer=answer)]
    if number % 3 == 0:
        rounds.append(StoredRound(images=(), question="How many?", answer="three"))
    return sample_of(f"toy/{split}/{number}", tokenizer, tuple(rounds), images, split=split)


def plain_image(rng: np.random.Generator, key: str) -> StoredImage:
    """Draw a picture of one colour."""
    colour = tuple(int(c) for c in rng.integers(0, 256, size=3))
    data = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(data, "PNG")
    return StoredImage(
        key=key, data=data.getvalue(), extension="png", size=(32, 32), original_size=(32, 32)
    )


def write_run(folder: Path, *, shards: Path) -> Path:
    """Write RUN.toml with `OUT` beside it; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "RUN.toml"
    path.write_text(RUN_TOML.format(shards=shards, out=folder / "out"))
    return path


def command_line(run_file: Path, *settings: str, processes: int, launcher: str) -> list[str]:
    """Return the command that starts a run `alone`, under `torchrun` or under `deepspeed`."""
    flags = [flag for setting in settings for flag in ("--set", setting)]
    if launcher == "alone":
        return [str(BIN / "vchat-train"), "run", str(run_file), *flags]
    if launcher == "torchrun":
        start = ["torchrun", "--nproc-per-node", str(processes), "--master-port", free_port()]
        return [str(BIN / start[0]), *start[1:], "-m", "vchat.train", "run", str(run_file), *flags]
    start = ["deepspeed", "--num_accelerators", str(processes), "--master_port", free_port()]
    module = ["--module", "vchat.train", "run", str(run_file), *flags]
    return [str(BIN / start[0]), *start[1:], *module]


def launch_run(
    run_file: Path, *settings: str, processes: int = 1, launcher: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run to the end; by default alone for one process and under `deepspeed` for more."""
    launcher = launcher or ("alone" if processes == 1 else "deepspeed")
    command = command_line(run_file, *settings, processes=processes, launcher=launcher)
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=500)


def run_here(run_file: Path, *settings: str) -> None:
    """Run as one process inside this one: a few seconds less than `launch_run`."""
    prepare_deepspeed()
    from vchat.train.config.run import read_run
    from vchat.train.run.launch import run_training

    run_training(read_run(run_file, overrides=settings))


def run_together(jobs: Sequence[tuple[Path, Sequence[str]]], *, processes: int) -> None:
    """Make several runs one after the other in the same ranks."""
    listing = [[str(run_file), *settings] for run_file, settings in jobs]
    check_ranks(run_ranks(f"{__name__}:run_all", listing, processes=processes))


def run_all(jobs: Sequence[Sequence[str]]) -> None:
    """Make runs one after the other in this process."""
    for run_file, *settings in jobs:
        run_here(Path(run_file), *settings)


def check_ranks(ranks: Sequence[subprocess.CompletedProcess[str]]) -> None:
    """Fail with what the first rank said that failed."""
    for rank, done in enumerate(ranks):
        assert done.returncode == 0, f"rank {rank}: {done.stderr[-3000:]}"


def prepare_deepspeed() -> None:
    """Set what must be set before DeepSpeed is imported into this process."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from vchat.train.engine.processes import prepare_environment

    prepare_environment()


def log_of(out: Path) -> list[dict[str, float]]:
    """Return the lines of a run's log."""
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def losses(out: Path) -> list[float]:
    """Return the loss of every step that a run has logged."""
    return [line["loss"] for line in log_of(out)]
