"""`vchat-train plan` says what a run will do, without starting it."""

import subprocess

from training_runs import BIN, environment, toy_shards, write_run


def test_the_plan_of_a_run_names_steps_tokens_and_images(tmp_path):
    run_file = write_run(tmp_path, shards=toy_shards(tmp_path / "shards"))
    command = [str(BIN / "vchat-train"), "plan", str(run_file), "--processes", "2"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    table = {
        cells[1].strip(): cells[2].strip()
        for line in done.stdout.splitlines()
        if len(cells := line.replace("┃", "│").split("│")) == 4
    }
    assert table["steps"] == "12"
    assert table["micro-batches per step and process"] == "3"
    assert table["samples per epoch"] == "120"
    assert table["positions per image"] == "5"
    assert int(table["images per epoch"]) > 0
    assert not (tmp_path / "out").exists()
