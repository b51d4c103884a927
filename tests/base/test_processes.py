"""Calls in processes of their own: results in order, progress, and one error that ends the rest."""

import time
from functools import partial
from pathlib import Path

import pytest

from vchat.base.processes import open_counter, run_calls


def steps(counts: Path, name: str, number: int) -> str:
    """Count `number` steps; with a negative number fail, once the others have started."""
    with open_counter(counts / name) as count:
        for _ in range(abs(number)):
            count()
        while number < 0 and len(list(counts.iterdir())) < 2:
            time.sleep(0.01)
        if number < 0:
            raise ValueError(f"{name} is damaged")
    return name


def test_results_come_in_order_and_all_steps_are_counted(tmp_path):
    seen = []
    calls = [partial(steps, tmp_path / "counts", name, n) for name, n in (("a", 5), ("b", 7))]
    assert run_calls(calls, workers=2, counts=tmp_path / "counts", on_progress=seen.append) == [
        "a",
        "b",
    ]
    assert sum(seen) == 12
    assert not (tmp_path / "counts").exists()


def test_an_error_in_one_call_ends_those_that_are_still_running(tmp_path):
    calls = [partial(steps, tmp_path / "counts", name, n) for name, n in (("a", 10**12), ("b", -1))]
    with pytest.raises(ValueError, match="b is damaged"):
        run_calls(calls, workers=2, counts=tmp_path / "counts", on_progress=lambda count: None)
