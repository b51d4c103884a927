"""Work beside training: one piece at a time, its errors raised, given up if training fails."""

import threading

import pytest

from vchat.train.checkpoints.background import Background


def test_jobs_run_beside_the_caller_one_after_the_other():
    go_on, done = threading.Event(), []

    def first(given_up):
        go_on.wait(10)
        done.append(1)

    with Background() as background:
        background.start(first)
        assert done == []  # the caller goes on before it has ended
        go_on.set()
        background.start(lambda given_up: done.append(2))
        assert done[0] == 1
    assert done == [1, 2]


def test_an_error_of_a_job_is_raised_by_the_next_wait():
    def failing(given_up):
        raise OSError("no space left")

    with Background() as background:
        background.start(failing)
        with pytest.raises(OSError, match="no space left"):
            background.wait()


def test_an_error_of_a_job_is_raised_at_the_end_of_the_block():
    def failing(given_up):
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"), Background() as background:
        background.start(failing)


def test_a_job_is_asked_to_cancel_if_the_block_fails():
    seen = []

    def fails():
        with Background() as background:
            background.start(lambda given_up: seen.append(given_up.wait(60)))
            raise ValueError("training failed")

    with pytest.raises(ValueError, match="training failed"):
        fails()
    assert seen == [True]
