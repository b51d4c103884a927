"""Real runs: DeepSpeed, one and two processes, every ZeRO stage, on a CPU.

The runs are shared between tests. A step is 5 rows, so that with two processes the last micro-batch
of rank 1 holds a zero-weight row and no image: the ranks must stay in step all the same.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vchat.train.checkpoints.checkpoint import open_checkpoint, verify_files
from vchat.train.checkpoints.step_folder import find_defect, find_newest
from vchat_testing.training_runs import (
    command_line,
    launch_run,
    log_of,
    losses,
    run_here,
    run_together,
    training_shards,
    write_run,
)
from vchat_testing.warm import environment, run_command

pytestmark = pytest.mark.xdist_group("launches")

STEPS = 12


@pytest.fixture(scope="session")
def shards(tmp_path_factory) -> Path:
    return training_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="session")
def folders(shards, tmp_path_factory) -> dict[str, Path]:
    """Whole runs of two processes by name, each in its folder: a run per stage, and one more."""
    skip = ["optimizer.on_bad_loss=skip", "optimizer.max_loss=5.0", "run.steps=2"]
    settings = {f"stage{stage}": [f"deepspeed.zero_stage={stage}"] for stage in range(4)}
    settings["all_skipped"] = ["deepspeed.zero_stage=3", *skip]
    folders = {name: tmp_path_factory.mktemp(name) for name in settings}
    jobs = [(write_run(folders[name], shards=shards), settings[name]) for name in settings]
    run_together(jobs, processes=2)
    return folders


@pytest.fixture(scope="session")
def undisturbed(folders):
    """Return the OUT folder of the whole run under a stage."""
    return lambda stage: folders[f"stage{stage}"] / "out"


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_processes_train_and_save_under_every_stage(undisturbed, stage):
    out = undisturbed(stage)
    log = log_of(out)
    assert [line["step"] for line in log] == list(range(1, STEPS + 1))
    assert log[-1]["loss"] < log[0]["loss"] - 0.4
    assert log[-1]["eval_loss"] < log[5]["eval_loss"]
    checkpoint = open_checkpoint(out)
    assert checkpoint.step == STEPS
    assert checkpoint.state["world_size"] == 2
    verify_files(checkpoint, checkpoint.files)


def test_the_umask_decides_who_may_read_a_checkpoint(undisturbed):
    os.umask(mask := os.umask(0))
    files = [path for path in (undisturbed(0) / "step-000012").rglob("*") if path.is_file()]
    modes = {path.name: path.stat().st_mode & 0o777 for path in files}
    assert "model.safetensors" in modes
    assert modes == dict.fromkeys(modes, 0o666 & ~mask)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_losses_do_not_depend_on_the_stage(undisturbed, stage):
    assert losses(undisturbed(stage)) == pytest.approx(losses(undisturbed(0)), abs=1e-5)


@pytest.mark.parametrize("rows_per_micro_batch", [1, 3, 5])
def test_the_losses_do_not_depend_on_world_size_and_accumulation(
    undisturbed, shards, tmp_path, rows_per_micro_batch
):
    run_file = write_run(tmp_path, shards=shards)
    run_here(run_file, f"batch.rows_per_micro_batch={rows_per_micro_batch}")
    assert losses(tmp_path / "out") == pytest.approx(losses(undisturbed(0)), abs=1e-5)
    alone, together = log_of(tmp_path / "out")[-1], log_of(undisturbed(0))[-1]
    assert alone["eval_loss"] == pytest.approx(together["eval_loss"], abs=1e-5)


def test_a_saved_model_is_whole_and_loads_by_itself(undisturbed):
    from vchat.train.engine.starting_model import load_model

    weights = [
        {
            name: p.detach()
            for name, p in load_model(undisturbed(stage) / "step-000012").named_parameters()
        }
        for stage in (0, 3)
    ]
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        assert weight.isfinite().all(), name
        assert (weight - weights[1][name]).abs().max() < 1e-3, name


def test_a_run_killed_in_the_middle_ends_with_exactly_the_same_losses(
    undisturbed, shards, tmp_path
):
    run_file, out = write_run(tmp_path, shards=shards), tmp_path / "out"
    interrupt_run(
        run_file,
        "deepspeed.zero_stage=2",
        signal_number=signal.SIGKILL,
        when=lambda: find_newest(out) is not None,
    )
    saved = find_newest(out)
    assert saved is not None
    assert saved.name != "step-000012"
    leave_half_written(out / ".step-000010.part")
    leave_half_written(out / "step-000010")
    done = launch_run(run_file, "deepspeed.zero_stage=2", processes=2, launcher="torchrun")
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"going on after step {int(saved.name[5:])}" in done.stderr
    assert losses(out) == losses(undisturbed(2))
    assert find_defect(out / "step-000012") is None


def test_sigterm_saves_the_step_and_exits_with_zero_and_nothing_is_lost(
    undisturbed, shards, tmp_path
):
    run_file, out = write_run(tmp_path, shards=shards), tmp_path / "out"
    code = interrupt_run(
        run_file, signal_number=signal.SIGTERM, when=lambda: num_lines(out) >= 2, processes=1
    )
    assert code == 0
    stopped_at = open_checkpoint(out).step
    assert stopped_at == log_of(out)[-1]["step"] < STEPS
    run_here(run_file)
    assert [line["step"] for line in log_of(out)] == list(range(1, STEPS + 1))
    assert losses(out) == pytest.approx(losses(undisturbed(0)), abs=1e-5)


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_a_run_resumes_with_another_number_of_processes(
    undisturbed, shards, tmp_path, stage, capsys
):
    run_file, out = write_run(tmp_path, shards=shards), tmp_path / "out"
    shutil.copytree(undisturbed(stage), out)
    shutil.rmtree(out / "step-000012")
    run_here(run_file, f"deepspeed.zero_stage={stage}")
    assert "going on after step 8" in capsys.readouterr().err
    assert losses(out) == pytest.approx(losses(undisturbed(stage)), abs=1e-5)
    assert not list(out.glob(".step-*"))


def test_a_changed_optimizer_file_is_never_unpickled(undisturbed, shards, tmp_path):
    run_file, out = write_run(tmp_path, shards=shards), tmp_path / "out"
    shutil.copytree(undisturbed(0), out)
    file = next((out / "step-000012" / "deepspeed").iterdir())
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=f"{file.name}: SHA-256"):
        run_here(run_file)


def test_a_checkpoint_written_late_holds_the_state_of_its_step(shards, tmp_path, monkeypatch):
    from vchat.train.checkpoints.state_capture import StateCapture

    write, written_at = StateCapture.write, []

    def late(capture):
        deadline = time.monotonic() + 30
        while len(losses(out)) < 6 and time.monotonic() < deadline:
            time.sleep(0.01)
        written_at.append(len(losses(out)))
        write(capture)

    monkeypatch.setattr(StateCapture, "write", late)
    run_file, out = write_run(tmp_path, shards=shards), tmp_path / "out"
    settings = ["run.steps=6", "run.save_every=3", "run.eval_every=0"]
    run_here(run_file, *settings)
    whole = losses(out)
    assert written_at == [6, 6]  # the checkpoint of step 3 too
    shutil.rmtree(out / "step-000006")
    run_here(run_file, *settings)
    assert losses(out) == whole


def test_a_finished_run_started_again_changes_nothing(undisturbed, shards, tmp_path):
    run_file, out = write_run(tmp_path, shards=shards), tmp_path / "out"
    shutil.copytree(undisturbed(0), out)
    before = (out / "log.jsonl").read_text()
    run_here(run_file)
    assert (out / "log.jsonl").read_text() == before


@pytest.mark.parametrize(
    "setting, message",
    [
        (
            "data.shards={other}",
            r"made with another shard set than this run: index_digest '\w+' there",
        ),
        ("optimizer.lr=1.0", r"made with optimizer.lr = 0.003, this run has 1.0 \(settings "),
        (
            "model.decoder.hidden_size=64",
            r"made with model.decoder.hidden_size = 32, this run has 64 \(",
        ),
        ("deepspeed.zero_stage=1", r"made with deepspeed.zero_stage = 0, this run has 1"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(undisturbed, shards, tmp_path, setting, message):
    run_file, out = write_run(tmp_path, shards=shards), tmp_path / "out"
    shutil.copytree(undisturbed(0), out)
    other = training_shards(tmp_path / "other", seed=1) if "{other}" in setting else ""
    with pytest.raises(ValueError, match=message):
        run_here(run_file, setting.format(other=other))


def test_a_refused_checkpoint_is_one_line_and_exit_code_1(undisturbed, shards, tmp_path):
    run_file = write_run(tmp_path, shards=shards)
    shutil.copytree(undisturbed(0), tmp_path / "out")
    done = run_command("vchat-train", "run", run_file, "--set", "optimizer.lr=1.0")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")


def test_two_processes_stay_in_step_when_all_micro_batches_are_skipped(folders):
    log = log_of(folders["all_skipped"] / "out")
    assert [line["loss"] for line in log] == [0.0, 0.0]
    assert [line["skipped_micro_batches"] for line in log] == [3, 3]


def interrupt_run(
    run_file: Path,
    *settings: str,
    signal_number: int,
    when: Callable[[], bool],
    processes: int = 2,
) -> int:
    """Start a run, send a signal to all its processes at some point, return the exit code."""
    launcher = "alone" if processes == 1 else "deepspeed"
    command = command_line(run_file, *settings, processes=processes, launcher=launcher)
    with subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 300
        while not when():
            assert process.poll() is None, "the run ended before it could be interrupted"
            assert time.monotonic() < deadline, "the run did not get far enough"
            time.sleep(0.005)
        os.killpg(process.pid, signal_number)
        return process.wait(timeout=60)


def num_lines(out: Path) -> int:
    log = out / "log.jsonl"
    return len(log.read_bytes().splitlines()) if log.exists() else 0


def leave_half_written(folder: Path) -> None:
    (folder / "model").mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps({"format_version": 1, "step": 10}))
