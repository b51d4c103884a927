"""A rank that hangs in a step ends the run, and the stacks of all ranks are printed."""

import time
from pathlib import Path

import pytest

from vchat_testing.training_runs import prepare_deepspeed, run_here, training_shards, write_run
from vchat_testing.warm import run_ranks

pytestmark = pytest.mark.xdist_group("launches")


def test_all_ranks_print_their_stacks_and_end_with_an_error(tmp_path):
    run_file = write_run(tmp_path, shards=training_shards(tmp_path / "shards"))
    ranks = run_ranks(f"{__file__}:hang", run_file, processes=2)
    for rank, done in enumerate(ranks):
        assert done.returncode != 0
        assert f"rank {rank}: step 1 takes longer than run.hang_timeout_s = 4 s" in done.stderr
        assert "loop.py" in done.stderr  # rank 0 waits for rank 1 in the same step
    assert "in hanging" in ranks[1].stderr  # where it sleeps


def hang(run_file: str) -> None:
    """Train as one of two ranks; the second sleeps in its first step."""
    prepare_deepspeed()
    import os

    from vchat.train.run import loop

    sound = loop.compute_loss

    def hanging(*inputs, **settings):
        time.sleep(600)
        return sound(*inputs, **settings)

    if os.environ["RANK"] == "1":
        loop.compute_loss = hanging
    run_here(Path(run_file), "run.hang_timeout_s=4")
