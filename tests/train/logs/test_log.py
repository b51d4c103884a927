"""log.jsonl holds every step once, whatever was interrupted."""

import json

from vchat.train.logs.log import TrainingLog


def steps_in(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def write(path, steps, *, first_step, rank=0):
    with TrainingLog(path, rank=rank, first_step=first_step, total_steps=9) as log:
        for step in steps:
            log.write(step, loss=1.0)


def test_a_resumed_run_replaces_the_steps_it_repeats(tmp_path):
    path = tmp_path / "out" / "log.jsonl"
    write(path, [1, 2, 3, 4, 5], first_step=0)
    write(path, [4, 5, 6], first_step=3)
    assert steps_in(path) == [1, 2, 3, 4, 5, 6]


def test_a_line_cut_by_a_crash_is_dropped(tmp_path):
    path = tmp_path / "log.jsonl"
    write(path, [1, 2], first_step=0)
    with path.open("a") as file:
        file.write('{"step": 3, "lo')
    write(path, [3], first_step=2)
    assert steps_in(path) == [1, 2, 3]


def test_other_ranks_write_nothing(tmp_path):
    write(tmp_path / "log.jsonl", [1], first_step=0, rank=1)
    assert not (tmp_path / "log.jsonl").exists()


def test_without_a_terminal_progress_is_plain_lines(tmp_path, capsys):
    with TrainingLog(tmp_path / "log.jsonl", rank=0, first_step=0, total_steps=2) as log:
        log.show(1, "loss 2.0")
        log.show(2, "loss 1.0")
    assert capsys.readouterr().err == "step 2/2  loss 1.0\n"
