"""A loss that is no number stops the run or is left out; the samples behind it are named."""

import math

import pytest

from vchat_testing.training_runs import log_of, run_here, training_shards, write_run

CULPRIT = "toy/train/7"


@pytest.fixture
def run_file(tmp_path, monkeypatch):
    """A run in which one sample makes the loss of its micro-batch NaN."""
    from vchat_testing.training_runs import prepare_deepspeed

    prepare_deepspeed()
    from vchat.train.step import bad_loss

    sound = bad_loss.batch_loss

    def poisoned(engine, batch):
        loss = sound(engine, batch)
        bad = any(CULPRIT in row for row in batch.keys)
        return loss._replace(loss_sum=loss.loss_sum * math.nan) if bad else loss

    monkeypatch.setattr(bad_loss, "batch_loss", poisoned)
    return write_run(tmp_path, shards=training_shards(tmp_path / "shards"))


def test_the_run_stops_and_names_the_samples_of_the_micro_batch(run_file):
    with pytest.raises(ValueError, match=rf"the loss is nan.* samples .*{CULPRIT}.*on_bad_loss"):
        run_here(run_file)


def test_a_skipped_micro_batch_is_logged_and_the_rest_of_the_step_counts(run_file):
    run_here(run_file, "optimizer.on_bad_loss=skip")
    log = log_of(run_file.parent / "out")
    skipped = [line for line in log if "bad_samples" in line]
    assert len(skipped) >= 1
    assert all(CULPRIT in line["bad_samples"] for line in skipped)
    assert all(0 < line["loss"] < 7 for line in log)
    assert len(log) == 12


def test_a_loss_above_the_limit_counts_as_bad(run_file):
    with pytest.raises(ValueError, match="step 1: the loss is 6"):
        run_here(run_file, "optimizer.max_loss=5")


def test_a_spike_counts_as_bad_only_against_the_latest_steps():
    from vchat_testing.training_runs import prepare_deepspeed

    prepare_deepspeed()
    from vchat.train.config.run import OptimizerConfig
    from vchat.train.step.bad_loss import MIN_RECENT_STEPS, LossLimit

    limit = LossLimit(OptimizerConfig(lr=1e-3, spike_factor=2.0))
    for _ in range(MIN_RECENT_STEPS):
        assert not limit.is_bad(100.0)
        limit.remember(1.5)
    assert limit.is_bad(3.1)
    assert not limit.is_bad(2.9)
    assert limit.is_bad(math.inf)


def test_a_resumed_run_remembers_the_losses_before_it(run_file):
    from vchat.train.checkpoints.checkpoint import open_checkpoint

    run_here(run_file, "optimizer.on_bad_loss=skip", "run.steps=3")
    out = run_file.parent / "out"
    state = open_checkpoint(out).state
    assert state["recent_losses"] == [line["loss"] for line in log_of(out)]


def test_a_spike_stops_the_run_and_names_the_samples(tmp_path, monkeypatch):
    from vchat_testing.training_runs import prepare_deepspeed

    prepare_deepspeed()
    from vchat.train.step import bad_loss

    sound, calls = bad_loss.batch_loss, []

    def spiking(engine, batch):
        calls.append(batch)
        loss = sound(engine, batch)
        return loss._replace(loss_sum=loss.loss_sum * (50 if len(calls) > 55 else 1))

    monkeypatch.setattr(bad_loss, "batch_loss", spiking)
    run_file = write_run(tmp_path, shards=training_shards(tmp_path / "shards"))
    with pytest.raises(ValueError, match=r"step 12: the loss is .*, above the limit .* samples"):
        run_here(run_file, "optimizer.spike_factor=3.0")
