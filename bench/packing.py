"""What does packing gain? Training steps of the shipped run `tiny.toml`, in four forms.

All forms see the same samples in the same steps: forward, backward and optimizer. Tokens are those
of dialogues, image positions included, padding not.

    mmca packed      as `vchat-train run` does it: several dialogues to a row, none sees another
    mmca padded      each dialogue in a row of its own, padded to the longest of its micro-batch
    causal packed    as the first, with plain causal attention
    library padded   as the second, through the library's own causal attention and its padding mask

The library pays for padding; our layout leaves it out before the first layer. Losses of packed and
padded rows are asserted to be equal. Times are CPU seconds of one thread, in turns.

Run `python bench/packing.py` (draws the sample world into a temporary folder) or with `--shards`.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from vchat.model.visual_chat import VisualChat
from vchat.shards.format.open_shards import open_shards
from vchat.shards.loading.collate import IGNORED, Batch
from vchat.train.config.run import RunConfig, find_run_file, read_run
from vchat.train.engine.processes import RankShare
from vchat.train.engine.starting_model import build_model, read_sizes
from vchat.train.run.data import RunData

BIN = Path(sys.executable).parent
FORMS = ("mmca packed", "mmca padded", "causal packed", "library padded")


def main() -> None:
    """Print tokens/s of the forms, and their ratio to the last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=Path, help="made by `--recipe tiny`")
    parser.add_argument("--images", type=int, default=1000, help="of the sample world, if drawn")
    parser.add_argument("--steps", type=int, default=12)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        shards = arguments.shards or draw_shards(Path(place), images=arguments.images)
        compare(shards, num_steps=arguments.steps)


def draw_shards(place: Path, *, images: int) -> Path:
    """Draw the sample world and build its shards, as `make demo` does."""
    data = str(place / "data")
    commands = (
        ["vchat-prep", "sample-data", "--out", data, "--images", str(images)],
        [
            *("vchat-prep", "build", "--recipe", "tiny", "--data", data),
            *("--tokenizer", f"{data}/tokenizer", "--out", str(place / "shards")),
        ],
    )
    for command, *rest in commands:
        subprocess.run(
            [BIN / command, *rest],
            check=True,
            capture_output=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    return place / "shards"


def compare(shards: Path, *, num_steps: int) -> None:
    """Make the steps in turns, and print what each form did in a CPU second."""
    config = read_run(find_run_file(Path("tiny.toml")), overrides=[f"data.shards={shards}"])
    steps = list(steps_of(config, num_steps=num_steps + 1))
    jobs = {form: job_of(form, config) for form in FORMS}
    seconds = dict.fromkeys(FORMS, 0.0)
    for number, batches in enumerate(steps):
        losses = {}
        for form, job in jobs.items():
            given = [unpack_batch(one) for one in batches] if "padded" in form else batches
            start = time.process_time()
            losses[form] = job(given)
            if number > 0:  # the first warms up
                seconds[form] += time.process_time() - start
        if number == 0:
            for one, other in (FORMS[:2], FORMS[2:]):
                assert abs(losses[one] - losses[other]) < 1e-4 * losses[one], losses
    tokens = sum(int((one.segment_ids > 0).sum()) for step in steps[1:] for one in step)
    print(f"{num_steps} steps, {tokens} tokens; {padding_of(steps[1:])}")
    for form, spent in seconds.items():
        ratio = seconds[FORMS[-1]] / spent
        print(f"{form:15s} {tokens / spent:8.0f} tokens/s  {ratio:.2f}x of {FORMS[-1]}")


def steps_of(config: RunConfig, *, num_steps: int) -> Iterator[list[Batch]]:
    """Yield the micro-batches of the first steps of a run in one process."""
    shard_set = open_shards(config.data.shards)
    model = new_model(config)
    data = RunData(
        [shard_set],
        config.data,
        config.batch,
        config.run,
        sizes=read_sizes(model),
        share=RankShare(rank=0, world_size=1),
    )
    for _ in range(num_steps):
        yield list(data.read_step())
        data.finish_step()


def new_model(config: RunConfig) -> VisualChat:
    """The model that the run starts from."""
    tokenizer = open_shards(config.data.shards).tokenizer()
    return build_model(
        config.model, image_token_id=tokenizer.image_id, num_ids=tokenizer.num_ids, seed=0
    )


def job_of(form: str, config: RunConfig) -> Callable[[list[Batch]], float]:
    """Return a function that makes one optimizer step in this form and returns its mean loss."""
    attention = "mmca" if form.startswith("mmca") else "causal"
    model = new_model(replace(config, model=replace(config.model, attention=attention))).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.optimizer.lr)
    loss_of = library_loss if form.startswith("library") else our_loss
    if form.startswith("library"):
        model.decoder.set_attn_implementation("sdpa")

    def step(batches: list[Batch]) -> float:
        optimizer.zero_grad()
        num = sum(one.num_supervised for one in batches)
        total = 0.0
        for batch in batches:
            loss = loss_of(model, batch) / num
            loss.backward()
            total += float(loss.detach())
        optimizer.step()
        return total

    return step


def our_loss(model: VisualChat, batch: Batch) -> Tensor:
    """The summed loss of a micro-batch, as training takes it."""
    loss: Tensor = model(
        batch.token_ids,
        batch.pixels,
        position_ids=batch.position_ids,
        segment_ids=batch.segment_ids,
        labels=batch.labels,
    ).loss
    return loss


def library_loss(model: VisualChat, batch: Batch) -> Tensor:
    """The same through the library's decoder: rows of one dialogue, padding masked."""
    hidden = model.decoder.model(
        inputs_embeds=model.embed(batch.token_ids, batch.pixels),
        attention_mask=batch.segment_ids,
        use_cache=False,
    ).last_hidden_state[:, :-1]
    wanted = batch.labels[:, 1:] != IGNORED
    loss: Tensor = model.summed_cross_entropy(
        hidden[wanted], model.decoder.lm_head, batch.labels[:, 1:][wanted]
    )
    return loss


def unpack_batch(batch: Batch) -> Batch:
    """Give every dialogue of a micro-batch a row of its own, padded at its end to the longest."""
    pieces = [
        (row, batch.segment_ids[row] == segment)
        for row, segment in itertools.product(
            range(len(batch.segment_ids)), range(1, int(batch.segment_ids.max()) + 1)
        )
        if (batch.segment_ids[row] == segment).any()
    ]
    longest = max(int(inside.sum()) for _, inside in pieces)

    def rows(tensor: Tensor, *, fill: int) -> Tensor:
        parts = [tensor[row][inside] for row, inside in pieces]
        return torch.stack(
            [functional.pad(part, (0, longest - len(part)), value=fill) for part in parts]
        )

    return replace(
        batch,
        token_ids=rows(batch.token_ids, fill=0),
        labels=rows(batch.labels, fill=IGNORED),
        position_ids=rows(batch.position_ids, fill=0),
        segment_ids=rows(batch.segment_ids, fill=0).clamp(max=1),
    )


def padding_of(steps: list[list[Batch]]) -> str:
    """Say how much of the rows is padding, packed and padded."""
    packed = torch.cat([one.segment_ids.flatten() for step in steps for one in step])
    padded = torch.cat([unpack_batch(one).segment_ids.flatten() for step in steps for one in step])
    shares = [float((each == 0).float().mean()) for each in (packed, padded)]
    return f"padding {shares[0]:.1%} of packed rows, {shares[1]:.1%} of padded ones"


if __name__ == "__main__":
    main()
