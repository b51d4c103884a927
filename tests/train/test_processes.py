"""What a process does when others fail or a signal asks it to stop."""

import os
import signal

import pytest
from training_runs import prepared
from vchat.train.processes import StopRequest, lost_ranks_in_one_line


def test_a_rank_left_waiting_says_so_in_one_line():
    prepared()
    message = "[/gloo/pair.cc:561] Connection closed by peer [127.0.0.1]:1"
    with (
        pytest.raises(ConnectionError, match="rank 0 lost another rank"),
        lost_ranks_in_one_line(),
    ):
        raise RuntimeError(message)


def test_other_failures_keep_their_traceback():
    prepared()
    with pytest.raises(RuntimeError, match="size mismatch"), lost_ranks_in_one_line():
        raise RuntimeError("size mismatch")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_remembered_inside_the_block_only(number):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
    assert signal.getsignal(number) == before
