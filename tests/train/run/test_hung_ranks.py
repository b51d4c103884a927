"""A rank that hangs in a step ends the run, and the stacks of all ranks are printed."""

import subprocess
import sys
import time
from pathlib import Path

from vchat_testing.training_runs import (
    BIN,
    environment,
    free_port,
    prepare_deepspeed,
    run_here,
    toy_shards,
    write_run,
)


def test_all_ranks_print_their_stacks_and_end_with_an_error(tmp_path):
    run_file = write_run(tmp_path, shards=toy_shards(tmp_path / "shards"))
    start = ["--nproc-per-node", "2", "--master-port", free_port()]
    command = [BIN / "torchrun", *start, __file__, run_file]
    surroundings = environment() | {"PYTHONPATH": str(Path(__file__).parents[3] / "src")}
    done = subprocess.run(command, capture_output=True, text=True, env=surroundings, timeout=300)
    assert done.returncode != 0
    for rank in (0, 1):
        assert f"rank {rank}: step 1 takes longer than run.hang_timeout_s = 8 s" in done.stderr
    assert "in hanging" in done.stderr  # where rank 1 sleeps
    assert done.stderr.count("loop.py") >= 2  # rank 0 waits for it in the same step


def hang(run_file: Path) -> None:
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
    run_here(run_file, "run.hang_timeout_s=8")


if __name__ == "__main__":
    hang(Path(sys.argv[1]))
