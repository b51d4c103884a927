"""What a run tells while it trains: by source, to TensorBoard and W&B, in one line."""

import json
from collections import defaultdict

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vchat.shards.loading.collate import Batch
from vchat.train.engine.engine import BatchLoss
from vchat.train.logs.log import flatten_values, progress_text
from vchat.train.step.source_losses import SourceLosses
from vchat_testing.training_runs import log_of, run_here, training_shards, write_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 12 steps, interrupted by its end at 6, with every way to watch it."""
    folder = tmp_path_factory.mktemp("watched")
    run_file = write_run(folder, shards=training_shards(folder / "shards"))
    patch = pytest.MonkeyPatch()
    patch.setenv("WANDB_MODE", "offline")
    patch.setenv("WANDB_SILENT", "true")
    run_here(run_file, "run.tensorboard=true", "run.wandb=vchat-test", "run.gpu_tflops=0.01")
    patch.undo()
    return folder / "out"


def test_the_log_has_speed_waiting_padding_memory_and_loss_by_source(finished):
    for line in log_of(finished):
        assert line["loss_by_source"] == {"toy": pytest.approx(line["loss"], rel=1e-5)}
        assert line["mfu"] == pytest.approx(line["tflops"] / 0.01, rel=0.01, abs=1e-4)
        assert {"tokens_per_s", "data_wait_share", "padding_share", "memory_gb"} <= set(line)
    held_out = [line for line in log_of(finished) if "eval_loss" in line]
    assert len(held_out) == 2
    for line in held_out:
        assert line["eval_loss_by_source"] == {"toy": pytest.approx(line["eval_loss"])}


def test_tensorboard_has_every_number_of_the_log(finished):
    events = EventAccumulator(str(finished / "tensorboard"))
    events.Reload()
    log = log_of(finished)
    for name in ("loss", "loss_by_source/toy", "lr", "mfu", "memory_gb"):
        drawn = {event.step: event.value for event in events.Scalars(name)}
        wanted = {line["step"]: flatten_values(line)[name] for line in log}
        assert drawn == pytest.approx(wanted)


def test_weights_and_biases_has_the_run_offline(finished):
    runs = list(finished.glob("wandb/offline-run-*/*.wandb"))
    assert len(runs) == 1
    assert runs[0].stat().st_size > 1000
    assert (finished / "wandb-id").read_text() in runs[0].name


def test_each_supervised_token_counts_for_the_source_of_its_sample():
    sources, rng = ("llava", "cgd"), np.random.default_rng(0)
    keys = [["cgd/1", "llava/2", "cgd/3"], [], ["llava/4"]]
    segments = torch.tensor([[1, 1, 1, 2, 2, 3, 3, 3], [0] * 8, [1, 1, 1, 1, 1, 0, 0, 0]])
    labels = torch.tensor(rng.integers(0, 2, (3, 8)) * 100 - 100) + (segments > 0) * 0
    labels = torch.where(segments > 0, labels, -100)
    wanted: dict[str, list[float]] = defaultdict(list)
    losses, indices = [], []
    for r in range(3):
        for c in range(1, 8):
            if labels[r, c] != -100 and segments[r, c] == segments[r, c - 1]:
                losses.append(float(len(losses)))
                indices.append((r, c))
                wanted[keys[r][segments[r, c] - 1].split("/")[0]].append(losses[-1])
    batch = Batch(
        pixels=torch.zeros(0, 3, 1, 1, dtype=torch.uint8),
        token_ids=labels,
        labels=labels,
        position_ids=labels,
        segment_ids=segments,
        keys=keys,
        num_supervised=len(losses),
    )
    counted = SourceLosses(sources)
    loss = BatchLoss(
        loss_sum=torch.tensor(sum(losses)),
        target_losses=torch.tensor(losses),
        target_indices=torch.tensor(indices),
    )
    counted.add(batch, loss)
    assert counted.means() == {name: pytest.approx(np.mean(of)) for name, of in wanted.items()}
    assert counted.num_tokens() == {name: len(of) for name, of in wanted.items()}
    assert len(wanted) == 2


def test_the_bar_shows_loss_speed_waiting_padding_and_memory():
    values = {"loss": 1.5, "tokens_per_s": 1234.5, "mfu": 0.405, "data_wait_share": 0.02}
    values |= {"padding_share": 0.031, "memory_gb": 12.34}
    line = progress_text(values)
    assert line == "loss 1.5000  1234 tokens/s  MFU 40.5%  wait 2%  padding 3%  12.3 GB"
    assert "MFU" not in progress_text({k: v for k, v in values.items() if k != "mfu"})


def test_the_bar_shows_the_loss_scale_and_skipped_steps_of_fp16():
    values = {"loss": 1.5, "tokens_per_s": 1.0, "data_wait_share": 0, "padding_share": 0}
    values |= {"memory_gb": 1.0, "loss_scale": 32768.0, "skipped_steps": 0, "skipped_rows": 0}
    assert "tokens/s  scale 32768  wait" in progress_text(values)
    values |= {"skipped_steps": 6, "skipped_rows": 30}
    assert "scale 32768  skipped 6 steps, 30 rows  wait" in progress_text(values)


def test_numbers_by_source_are_named_after_it_and_texts_are_left_out():
    values = {"loss": 1, "by": {"a": 2}, "bad_samples": ["x"], "json": json}
    assert flatten_values(values) == {"loss": 1.0, "by/a": 2.0}
