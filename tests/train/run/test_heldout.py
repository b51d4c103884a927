"""Held-out loss of a checkpoint: each sample once, the same on any number of processes."""

import json

import pytest

from vchat_testing.training_runs import check_ranks, log_of, run_here, training_shards, write_run
from vchat_testing.warm import run_command, run_ranks

pytestmark = pytest.mark.xdist_group("launches")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heldout")
    run_file = write_run(folder, shards=training_shards(folder / "shards"))
    run_here(run_file, "run.steps=2")
    return folder


def heldout(folder, *flags, processes=1):
    command = ["vchat-train", "heldout", "--checkpoint", folder, *flags]
    if processes == 1:
        return [run_command(*command)]
    return run_ranks("vchat.train.commands.main:main", processes=processes, program=command)


@pytest.mark.parametrize("processes", [1, 2])
def test_the_loss_is_that_of_the_run_and_every_sample_counts_once(trained, processes):
    ranks = heldout(trained / "out", "--json", processes=processes)
    check_ranks(ranks)
    found = json.loads("".join(done.stdout for done in ranks))
    logged = log_of(trained / "out")[-1]
    assert found["samples"] == 7
    assert found["loss"] == pytest.approx(logged["eval_loss"], rel=1e-6)
    assert found["sources"]["toy"]["loss"] == pytest.approx(found["loss"])


def test_shards_that_are_not_there_are_one_clear_line(trained, tmp_path):
    (done,) = heldout(trained / "out", "--shards", tmp_path / "none")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: no folder")
