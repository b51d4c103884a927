"""fp16 steps that overflow make no update: they are counted, told, and end a run that is stuck.

DeepSpeed refuses fp16 on a CPU; the tests say that it is supported there, and it is.
"""

import json
import shutil

import pytest

from vchat_testing.training_runs import (
    log_of,
    losses,
    prepare_deepspeed,
    run_here,
    training_shards,
    write_run,
)

SETTINGS = ("train.precision=fp16", "batch.rows_per_micro_batch=5", "run.eval_every=0")
LARGER_GRADIENTS = 200.0
"""So much larger that they overflow at the first loss scales; clipping undoes it for the rest."""


@pytest.fixture
def run_file(tmp_path, monkeypatch):
    prepare_deepspeed()
    from deepspeed.accelerator import get_accelerator

    monkeypatch.setattr(get_accelerator(), "is_fp16_supported", lambda: True)
    return write_run(tmp_path, shards=training_shards(tmp_path / "shards"))


def count_updates(monkeypatch):
    """Return a list that gets, of every step that the engine makes, whether it changed weights."""
    from vchat.train.step import skipped_updates

    applied = []
    sound = skipped_updates.SkippedUpdates.count_step

    def noting(self, engine, *, rows):
        applied.append((engine.was_step_applied(), engine.skipped_steps))
        return sound(self, engine, rows=rows)

    monkeypatch.setattr(skipped_updates.SkippedUpdates, "count_step", noting)
    return applied


@pytest.mark.parametrize("zero_stage", [0, 1, 3])
def test_skipped_steps_and_rows_are_in_the_log_and_said_also_after_a_resume(
    run_file, zero_stage, monkeypatch, capfd
):
    from vchat.train.run import loop

    sound = loop.loss_weight
    monkeypatch.setattr(loop, "loss_weight", lambda *of: LARGER_GRADIENTS * sound(*of))
    settings = (*SETTINGS, f"deepspeed.zero_stage={zero_stage}")
    applied = count_updates(monkeypatch)
    run_here(run_file, *settings)
    out = run_file.parent / "out"
    log = log_of(out)
    skipped = [number for _, number in applied]
    assert len(log) == len(applied) == 12
    assert skipped[-1] >= 2, "the case has steps that overflow"
    assert [line["skipped_steps"] for line in log] == skipped
    assert [line["skipped_rows"] for line in log] == [5 * number for number in skipped]
    scales = [line["loss_scale"] for line in log]
    assert 2**16 >= scales[0] > scales[-1]
    end = f"; {skipped[-1]} steps ({5 * skipped[-1]} rows) made no update, since their fp16"
    said = capfd.readouterr().err
    assert end in said
    assert f"scale {scales[-1]:g}  skipped {skipped[-1]} steps, {5 * skipped[-1]} rows" in said

    shutil.rmtree(out / "step-000012")
    run_here(run_file, *settings)
    assert [line["skipped_steps"] for line in log_of(out)] == skipped
    assert [line["loss_scale"] for line in log_of(out)] == scales


@pytest.mark.parametrize("zero_stage", [0, 1, 3])
def test_fp16_gives_the_losses_of_fp32_at_every_stage(run_file, zero_stage):
    """At stage 0, gradients would reach Adam divided by a scale that the loss never had."""
    out = run_file.parent / "out"
    run_here(run_file, *SETTINGS, f"deepspeed.zero_stage={zero_stage}")
    in_fp16 = losses(out)
    shutil.rmtree(out)
    run_here(run_file, *SETTINGS, "train.precision=fp32")
    assert in_fp16 == pytest.approx(losses(out), abs=2e-3)


def test_ten_skipped_steps_in_a_row_end_the_run_with_one_line(run_file, monkeypatch):
    from vchat.train.run import loop

    monkeypatch.setattr(loop, "loss_weight", lambda engine, num_supervised: 1e12)
    with pytest.raises(ValueError, match="step 10: the last 10 steps made no update") as error:
        run_here(run_file, *SETTINGS)
    assert "\n" not in str(error.value)
    out = run_file.parent / "out"
    assert [line["skipped_steps"] for line in log_of(out)] == list(range(1, 11))
    state = json.loads((out / "step-000008" / "state.json").read_text())
    assert state["skipped_updates"] == {"steps": 8, "rows": 40, "in_a_row": 8}
    with pytest.raises(ValueError, match="step 10: the last 10 steps made no update"):
        run_here(run_file, *SETTINGS)


def test_the_lowest_loss_scale_ends_the_run_with_one_line():
    prepare_deepspeed()
    from vchat.train.step.skipped_updates import explain_lowest_scale

    said = "Current loss scale already at minimum - cannot decrease scale anymore. Exiting run."
    with (
        pytest.raises(ValueError, match=r"^step 7: steps down to the lowest") as error,
        explain_lowest_scale(7),
    ):
        raise Exception(said)
    assert "\n" not in str(error.value)
    with pytest.raises(RuntimeError, match="another"), explain_lowest_scale(7):
        raise RuntimeError("another")


def test_a_run_in_fp32_says_nothing_of_scales(run_file):
    run_here(run_file, "run.steps=1", "run.eval_every=0")
    assert not {"loss_scale", "skipped_steps"} & set(log_of(run_file.parent / "out")[0])
