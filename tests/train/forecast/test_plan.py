"""`vchat-train plan` says what a run will do and need, without starting it."""

import json

import pytest

from vchat.train.commands.plan import describe_verdict
from vchat_testing.training_runs import training_shards, write_run
from vchat_testing.warm import run_command


def plan(run_file, *flags):
    return run_command("vchat-train", "plan", run_file, *flags)


@pytest.fixture(scope="module")
def run_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    return write_run(folder, shards=training_shards(folder / "shards"))


def test_the_plan_of_a_run_names_steps_tokens_images_time_and_memory(run_file):
    done = plan(run_file, "--gpus", "2", "--gpu", "A100-40GB", "--mfu", "0.5", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["run"]["steps"] == 12
    assert found["run"]["micro_batches_per_step_and_gpu"] == 3
    assert found["epoch"]["samples"] == 120
    assert found["epoch"]["images"] > 0
    assert found["model"]["positions_per_image"] == 5
    time, reading, memory = found["time"], found["reading"], found["memory"]
    assert time["hours"] == pytest.approx(time["operations"] / (2 * 312e12 * 0.5) / 3600)
    per_second = reading["bytes_per_node_and_epoch"] / (time["hours_per_epoch"] * 3600)
    assert reading["megabytes_per_second_and_node"] == pytest.approx(per_second / 1e6)
    parts = ("weights", "gathered_weights", "gradients", "optimizer", "activations")
    assert memory["total"] == sum(memory[name] for name in parts)
    assert memory["fits"] is True
    assert not (run_file.parent / "out").exists()


def test_keys_of_no_sample_are_counted_and_named(run_file):
    keys = run_file.parent / "keys.txt"
    keys.write_text("toy/train/1\ntoy/none\n")
    done = plan(run_file, "--set", f"data.exclude={keys}")
    assert done.returncode == 0, done.stderr[-3000:]
    line = f"data.exclude = {keys}: 1 of 2 keys are of no sample in these shards: toy/none\n"
    assert line in done.stderr


def test_a_run_that_does_not_fit_ends_with_exit_code_1_and_the_setting_that_would(run_file):
    done = plan(run_file, "--gpus", "8", "--gpu-memory", "0.0014")
    assert done.returncode == 1, done.stderr[-3000:]
    assert "Does not fit" in done.stdout
    assert "Fits with --set " in done.stdout


def test_the_verdict_names_the_largest_part_and_the_way_out():
    memory = {"weights": 4e9, "gathered_weights": 0, "gradients": 4e9, "optimizer": 12e9}
    memory |= {"activations": 1e9, "total": 21e9, "usable": 18e9, "fits": False}
    memory |= {"changes": [{"set": "deepspeed.zero_stage=1", "cost": "little"}]}
    memory |= {"total_with_changes": 10e9, "gpus_that_fit_unchanged": None}
    assert describe_verdict(memory).splitlines() == [
        "Does not fit: 21.00 GB of 18.00 GB of one GPU (a tenth is left to runtime and buffers);"
        " most of it is optimizer, 12.00 GB.",
        "Fits with --set deepspeed.zero_stage=1: 10.00 GB (costs: little).",
    ]
