"""What a process does when others fail or a signal asks it to stop."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from vchat.train.engine.processes import StopRequest, explain_lost_ranks
from vchat_testing.training_runs import (
    command_line,
    prepare_deepspeed,
    training_shards,
    write_run,
)
from vchat_testing.warm import environment

pytestmark = pytest.mark.xdist_group("launches")


def test_a_rank_that_lost_another_says_so_in_one_line():
    prepare_deepspeed()
    message = "[/gloo/pair.cc:561] Connection closed by peer [127.0.0.1]:1"
    with (
        pytest.raises(ConnectionError, match="rank 0 lost another rank"),
        explain_lost_ranks(),
    ):
        raise RuntimeError(message)


def test_other_failures_keep_their_traceback():
    prepare_deepspeed()
    with pytest.raises(RuntimeError, match="size mismatch"), explain_lost_ranks():
        raise RuntimeError("size mismatch")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_remembered_inside_the_block_only(number):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.is_requested
        os.kill(os.getpid(), number)
        assert stop.is_requested
    assert signal.getsignal(number) == before


STARTING = """
import os, signal, sys, time
from vchat.train.engine.processes import StopRequest, end_with_launcher, block_sigusr1
end_with_launcher()
block_sigusr1()
os.kill(os.getpid(), signal.SIGUSR1)
time.sleep(0.2)
with StopRequest() as stop:
    sys.exit(0 if stop.is_requested else 3)
"""


@pytest.mark.parametrize("launcher", ["", "trap '' USR1;"])
def test_a_signal_during_start_up_is_not_lost_even_where_the_launcher_ignores_it(launcher):
    command = ["sh", "-c", f'{launcher} exec "$@"', "sh", sys.executable, "-c", STARTING]
    assert subprocess.run(command, timeout=50).returncode == 0


def test_the_ranks_of_a_killed_launcher_end(tmp_path):
    run_file = write_run(tmp_path / "run", shards=training_shards(tmp_path / "shards"))
    words = command_line(run_file, "run.steps=100000", processes=2, launcher="deepspeed")
    runner = subprocess.Popen(words, env=environment(), stderr=subprocess.DEVNULL)
    log = tmp_path / "run" / "out" / "log.jsonl"
    while not log.exists() or not log.stat().st_size:
        assert runner.poll() is None
        time.sleep(0.2)
    started = psutil.Process(runner.pid).children(recursive=True)
    assert len(started) == 3  # deepspeed's second process, and two ranks
    runner.kill()
    runner.wait()
    _, alive = psutil.wait_procs(started[1:], timeout=30)
    assert alive == []
    with contextlib.suppress(psutil.NoSuchProcess):
        started[0].kill()


ORPHAN = """
import os, sys, time
while os.getppid() == int(sys.argv[1]):
    time.sleep(0.05)
from vchat.train.engine.processes import end_with_launcher
end_with_launcher()
time.sleep(60)
"""
"""Comes to the point where a rank looks for its launcher only after that is gone."""


@pytest.mark.parametrize(
    "word, variable", [("--local_rank=0", {}), ("run", {"TORCHELASTIC_RUN_ID": "none"})]
)
def test_a_rank_whose_launcher_ended_before_its_start_ends_too(word, variable):
    script = f"import os, subprocess, sys; subprocess.Popen([sys.executable, '-c', {ORPHAN!r}, "
    script += f"str(os.getpid()), {word!r}])"
    command, surroundings = [sys.executable, "-c", script], environment() | variable
    started = subprocess.run(command, stderr=subprocess.PIPE, env=surroundings, timeout=50)
    assert started.stderr == b"the launcher is gone; this process ends\n"


def test_a_folder_that_not_all_hosts_share_is_detected_by_its_token(tmp_path):
    prepare_deepspeed()
    from vchat.train.run.run_folder import sees_token

    (tmp_path / ".token").write_text("mine")
    assert sees_token(tmp_path, "mine", wait_s=0)
    assert not sees_token(tmp_path, "yours", wait_s=0)
    assert not sees_token(tmp_path / "absent", "mine", wait_s=0)
