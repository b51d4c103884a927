"""Held-out loss of a checkpoint: each sample once, the same on any number of processes."""

import json
import subprocess

import pytest

from vchat_testing.training_runs import (
    BIN,
    environment,
    free_port,
    log_of,
    run_here,
    toy_shards,
    write_run,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heldout")
    run_file = write_run(folder, shards=toy_shards(folder / "shards"))
    run_here(run_file, "run.steps=2")
    return folder


def heldout(folder, *flags, processes=1):
    launch = ["torchrun", "--nproc-per-node", str(processes), "--master-port", free_port()]
    start = ["vchat-train"] if processes == 1 else [*launch, "-m", "vchat.train"]
    command = [str(BIN / start[0]), *start[1:], "heldout", "--checkpoint", str(folder), *flags]
    return subprocess.run(command, capture_output=True, text=True, env=environment())


@pytest.mark.parametrize("processes", [1, 2])
def test_the_loss_is_that_of_the_run_and_every_sample_counts_once(trained, processes):
    done = heldout(trained / "out", "--json", processes=processes)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    logged = log_of(trained / "out")[-1]
    assert found["samples"] == 7
    assert found["loss"] == pytest.approx(logged["eval_loss"], rel=1e-6)
    assert found["sources"]["toy"]["loss"] == pytest.approx(found["loss"])


def test_shards_that_are_not_there_are_one_clear_line(trained, tmp_path):
    done = heldout(trained / "out", "--shards", str(tmp_path / "none"))
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: no folder")
