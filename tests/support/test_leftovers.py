"""Whatever ends a test run, no process that its tests have started is left."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

TESTS = '''
import subprocess, sys, time

SLEEPER = """
import os, time

if os.fork() == 0:
    open("{folder}/" + str(os.getpid()), "w")
    time.sleep(600)
"""


def test_that_starts_a_process_in_a_session_of_its_own_and_hangs():
    subprocess.Popen([sys.executable, "-c", SLEEPER], start_new_session=True)
    time.sleep(600)


def test_beside_it():
    subprocess.run([sys.executable, "-c", SLEEPER])
    time.sleep(600)
'''


def attend_to_interrupts() -> None:
    """Undo what a shell does to commands in the background: they ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "started"
    folder.mkdir()
    file = tmp_path / "test_hanging.py"
    file.write_text(TESTS.replace("{folder}", str(folder)))
    options = ["-p", "vchat_testing.leftovers", "--numprocesses=2"]
    options += ["--basetemp", str(tmp_path / "temp")]
    run = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, file],
        stdout=subprocess.DEVNULL,
        cwd=tmp_path,
        start_new_session=True,
        preexec_fn=attend_to_interrupts,
    )
    deadline = time.monotonic() + 60
    while len(list(folder.iterdir())) < 2:
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    started = [int(path.name) for path in folder.iterdir()]
    assert all(psutil.pid_exists(pid) for pid in started)
    run.send_signal(number)
    assert run.wait(timeout=60) == pytest.ExitCode.INTERRUPTED
    alive = [pid for pid in started if psutil.pid_exists(pid)]
    assert not [pid for pid in alive if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
