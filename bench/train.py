"""The whole trainer against the bare model step, and against a Hugging Face Trainer script.

Run: `python bench/train.py [STEPS]` (12 by default). 400 dialogues about one to three JPEG
photographs of 640x480 pixels are drawn and built into shards of 224 pixels; a small CLIP tower and
Llama decoder are trained in float32 on one thread, one process.

The bare step runs the same model and optimizer on tensors that lie in memory: random ids and pixels
in the layout of the trainer's own micro-batches, step by step. All take turns, five times from the
start, and medians count: of each step's times, and of the peer's rates.

The peer is what many write: a dataset that opens, decodes, resizes and tokenizes each sample when
it is asked for, batches padded to their longest, `transformers.Trainer`: without a worker process,
as is its default, and with one. Its model, which skips padding by itself, and the tokens it counts,
padding not among them, are the same.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
import numpy as np
import torch
from PIL import Image

from vchat.model.visual_chat import VisualChat
from vchat.shards.format.publish import describe_shard, publish
from vchat.shards.format.sample import Sample, StoredImage, StoredRound
from vchat.shards.format.writer import write_shard
from vchat.shards.loading.collate import IGNORED, Batch
from vchat.shards.text.template import VisualChatTemplate
from vchat.shards.text.tokenizer import TextTokenizer
from vchat.train.checkpoints.background import Background
from vchat.train.config.run import RunConfig, read_run
from vchat.train.engine.engine import batch_loss
from vchat.train.engine.processes import RankShare, connect_processes, prepare_environment
from vchat.train.logs.log import TrainingLog
from vchat.train.run.launch import run_training
from vchat.train.run.loop import loss_weight
from vchat.train.run.prepare import prepare_run
from vchat_testing.toy import WORDS, sample_of, toy_tokenizer

SIDE, DIALOGUES, ROUNDS, UNTIMED_STEPS = 224, 400, 5, 2
RUN = """
[data]
shards = "{folder}/set"
tokens_per_row = 1024
images_per_row = 8

[model.tower]
model_type = "clip_vision_model"
image_size = 224
patch_size = 32
hidden_size = 192
intermediate_size = 768
num_hidden_layers = 4
num_attention_heads = 3

[model.decoder]
model_type = "llama"
hidden_size = 256
intermediate_size = 688
num_hidden_layers = 4
num_attention_heads = 4

[train]
parts = ["embeddings", "head", "decoder", "projection"]
precision = "fp32"

[batch]
rows_per_step = 4
rows_per_micro_batch = 2

[optimizer]
lr = 1e-4

[run]
out = "{folder}/out"
steps = {steps}
save_every = 100000
eval_every = 0
"""


def photograph(rng: np.random.Generator) -> Image.Image:
    """Draw a smooth picture with some noise, 640x480."""
    y, x = np.mgrid[:480, :640]
    smooth = np.stack([x // 3, y // 2, (x + y + int(rng.integers(255))) % 256], axis=-1)
    noisy = smooth + rng.integers(-8, 8, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def jpeg(picture: Image.Image) -> bytes:
    """Encode as photographs usually are."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return file.getvalue()


def write_dialogues(folder: Path) -> list[dict[str, Any]]:
    """Write photographs, and return questions and answers about one to three of them each."""
    rng = np.random.default_rng(0)
    words = WORDS.split()
    names = []
    for number in range(60):
        path = folder / "photographs" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(jpeg(photograph(rng)))
        names.append(str(path))
    return [
        {
            "images": list(rng.choice(names, size=int(rng.integers(1, 4)), replace=False)),
            "question": " ".join(rng.choice(words, size=int(rng.integers(8, 30)))),
            "answer": " ".join(rng.choice(words, size=int(rng.integers(10, 80)))),
        }
        for _ in range(DIALOGUES)
    ]


def store_image(name: str) -> StoredImage:
    """A photograph as a build stores it: shorter side 224."""
    picture = Image.open(name).resize((299, SIDE), Image.Resampling.BICUBIC)
    return StoredImage(
        key=name, data=jpeg(picture), extension="jpg", size=(299, SIDE), original_size=(640, 480)
    )


def write_set(folder: Path, dialogues: list[dict[str, Any]]) -> None:
    """Publish the dialogues as a shard set, in `folder/set`."""
    tokenizer = TextTokenizer.load(toy_tokenizer(folder / "tokenizer"))
    samples = [sample(number, one, tokenizer) for number, one in enumerate(dialogues)]
    path = folder / "set" / "train-000000.tar"
    path.parent.mkdir()
    shard = describe_shard(path, split="train", rows=write_shard(path, samples, first_number=0))
    template = VisualChatTemplate()
    facts = {
        "template": {"name": template.name, "system": template.system},
        "max_tokens": 1024,
        "positions_per_image": 50,
    }
    publish(folder / "set", manifest_without_shards=facts, shards=[shard], tokenizer=tokenizer)


def sample(number: int, dialogue: dict[str, Any], tokenizer: TextTokenizer) -> Sample:
    """One dialogue as a build makes it."""
    images = tuple(store_image(name) for name in dialogue["images"])
    round_ = StoredRound(
        images=tuple(range(len(images))),
        question=dialogue["question"],
        answer=dialogue["answer"],
    )
    return sample_of(f"bench/{number}", tokenizer, (round_,), images, source="bench")


def trainer_times(config: RunConfig) -> list[float]:
    """Run the trainer; return the seconds from one logged step to the next, data and all."""
    ended = []
    write: Callable[..., None] = TrainingLog.write

    def write_and_time(log: TrainingLog, step: int, **values: Any) -> None:
        write(log, step, **values)
        ended.append(time.perf_counter())

    TrainingLog.write = write_and_time  # type: ignore[method-assign]
    try:
        run_training(config)
    finally:
        TrainingLog.write = write  # type: ignore[method-assign]
    return list(np.diff(ended))


def bare_times(config: RunConfig) -> list[float]:
    """Make the same steps on tensors in memory; return the seconds from one to the next."""
    with Background() as background:
        run = prepare_run(config, RankShare(rank=0, world_size=1), background=background)
    steps = []
    for _ in range(config.run.steps or 0):
        steps.append([randomise_batch(batch, run.engine.module) for batch in run.data.read_step()])
        run.data.finish_step()
    ended = []
    for batches in steps:
        for batch in batches:
            loss = batch_loss(run.engine, batch).loss_sum
            run.engine.backward(loss * loss_weight(run.engine, batch.supervised_of_step))
            run.engine.step()
        ended.append(time.perf_counter())
    return list(np.diff(ended))


def randomise_batch(batch: Batch, model: VisualChat) -> Batch:
    """The batch with other ids and pixels; slots, labels and dialogues stand where they stood."""
    ids = torch.randint(3, 300, batch.token_ids.shape)
    is_slot = batch.token_ids == model.config.image_token_id
    ids = torch.where(is_slot, batch.token_ids, ids)
    return replace(
        batch,
        token_ids=ids,
        labels=torch.where(batch.labels == IGNORED, batch.labels, ids),
        pixels=torch.randint_like(batch.pixels, 256),
    )


class OnTheFly(torch.utils.data.Dataset[dict[str, Any]]):
    """Opens, decodes, resizes and tokenizes a dialogue when it is asked for it."""

    def __init__(self, dialogues: list[dict[str, Any]], *, tokenizer: Path, slot_id: int):
        from transformers import CLIPImageProcessor, PreTrainedTokenizerFast

        self.dialogues, self.slot_id = dialogues, slot_id
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer / "tokenizer.json"))
        self.processor = CLIPImageProcessor(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
        )

    def __len__(self) -> int:
        return len(self.dialogues)

    def __getitem__(self, number: int) -> dict[str, Any]:
        dialogue = self.dialogues[number]
        pictures = [Image.open(name).convert("RGB") for name in dialogue["images"]]
        template = VisualChatTemplate()
        ids = self.tokenizer(template.system)["input_ids"]
        for image in range(len(pictures)):
            ids += self.tokenizer(f"### Image {image + 1}:\n")["input_ids"]
            ids += [self.slot_id] * 50
        question = f"### Question:\n{dialogue['question']}\n\n### Answer:\n"
        ids += self.tokenizer(question)["input_ids"]
        answer = [*self.tokenizer(dialogue["answer"])["input_ids"], 1]
        return {
            "input_ids": ids + answer,
            "labels": [IGNORED] * len(ids) + answer,
            "pixel_values": self.processor(pictures, return_tensors="pt")["pixel_values"],
        }


def pad_batch(samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Collate to the longest of the batch."""
    longest = max(len(one["input_ids"]) for one in samples)

    def rows(name: str, fill: int) -> torch.Tensor:
        return torch.tensor([one[name] + [fill] * (longest - len(one[name])) for one in samples])

    lengths = torch.tensor([len(one["input_ids"]) for one in samples])
    return {
        "input_ids": rows("input_ids", 0),
        "labels": rows("labels", IGNORED),
        "attention_mask": (torch.arange(longest) < lengths[:, None]).long(),
        "pixel_values": torch.cat([one["pixel_values"] for one in samples]),
    }


class WithMeanLoss(torch.nn.Module):
    """The model as `transformers.Trainer` wants it; counts the tokens it has seen."""

    def __init__(self, model: VisualChat):
        super().__init__()
        self.model, self.num_tokens = model, 0

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        attention_mask: torch.Tensor,
        pixel_values: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        self.num_tokens += int(attention_mask.sum())
        loss = self.model(
            input_ids, pixel_values, attention_mask=attention_mask, labels=labels
        ).loss
        return {"loss": loss / (labels != IGNORED).sum()}


def peer_rate(
    config: RunConfig, dialogues: list[dict[str, Any]], folder: Path, *, workers: int
) -> float:
    """Train by `transformers.Trainer`; return tokens per second behind the first steps."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    with Background() as background:
        run = prepare_run(config, RankShare(rank=0, world_size=1), background=background)
    model = WithMeanLoss(run.engine.module)
    seen: list[tuple[float, int]] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *state: Any, **more: Any) -> None:
            seen.append((time.perf_counter(), model.num_tokens))

    slot_id = run.engine.module.config.image_token_id
    Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder / "peer"),
            per_device_train_batch_size=6,
            gradient_accumulation_steps=2,
            max_steps=config.run.steps,
            learning_rate=1e-4,
            use_cpu=True,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_num_workers=workers,
            ddp_find_unused_parameters=False,
        ),
        train_dataset=OnTheFly(dialogues, tokenizer=folder / "tokenizer", slot_id=slot_id),
        data_collator=pad_batch,
        callbacks=[Clock()],
    ).train()
    (first, before), (last, after) = seen[UNTIMED_STEPS], seen[-1]
    return (after - before) / (last - first)


def tokens_of_steps(out: Path) -> np.ndarray:
    """Tokens of each step but the first, padding not counted."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    positions = 4 * 1024
    return np.array([positions * (1 - line["padding_share"]) for line in lines[1:]])


def rounds(
    config: RunConfig, dialogues: list[dict[str, Any]], folder: Path
) -> Iterator[tuple[list[float], list[float], list[float]]]:
    """Time bare step, trainer, and the peer without and with a worker, each from the start."""
    for number in range(ROUNDS):
        out = config.run.out / str(number)
        here = replace(config, run=replace(config.run, out=out))
        bare, trainer = bare_times(here), trainer_times(here)
        peers = [peer_rate(config, dialogues, folder, workers=workers) for workers in (0, 1)]
        yield bare, trainer, peers


def main() -> None:
    """Print tokens per second of each, then our ratios."""
    torch.set_num_threads(1)
    prepare_environment()
    connect_processes()
    deepspeed.utils.logger.setLevel("ERROR")
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dialogues = write_dialogues(folder)
        write_set(folder, dialogues)
        run_file = folder / "run.toml"
        run_file.write_text(RUN.format(folder=folder, steps=steps))
        config = read_run(run_file)
        bare, trainer, peers = zip(*rounds(config, dialogues, folder), strict=True)
        tokens = tokens_of_steps(config.run.out / "0")
    timed = slice(UNTIMED_STEPS, None)
    bare_rate, rate = (
        tokens[timed].sum() / np.median(times, axis=0)[timed].sum() for times in (bare, trainer)
    )
    alone, helped = np.median(peers, axis=0)
    each = [np.sum(b[timed]) / np.sum(t[timed]) for b, t in zip(bare, trainer, strict=True)]
    print(f"bare model step                 {bare_rate:8.0f} tokens/s")
    print(f"vchat-train                     {rate:8.0f} tokens/s")
    print(f"Hugging Face Trainer, no worker {alone:8.0f} tokens/s")
    print(f"Hugging Face Trainer, 1 worker  {helped:8.0f} tokens/s")
    spread = f"rounds {min(each):.3f} to {max(each):.3f}"
    print(f"vchat-train / bare step: {rate / bare_rate:.3f} ({spread})")
    print(f"vchat-train / Hugging Face Trainer, no worker: {rate / alone:.2f}")
    print(f"vchat-train / Hugging Face Trainer, 1 worker: {rate / helped:.2f}")


if __name__ == "__main__":
    main()
