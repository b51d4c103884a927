"""A pytest plugin: no process that tests have started outlives the run, Ctrl-C included.

The first process of pytest sets a variable that every process below it inherits, whatever groups,
sessions or parents that one changes later. When the run ends, all processes that carry it are
killed.
"""

from __future__ import annotations

import atexit
import os
import signal
import time
import uuid

import psutil
import pytest

VARIABLE = "VCHAT_TEST_RUNS"
"""The runs that a process belongs to, separated by blanks: a test may start pytest itself."""

LONGEST_S = 10.0


def pytest_configure(config: pytest.Config) -> None:
    """Mark this process, and clean up after it; workers of xdist leave that to the first one."""
    if hasattr(config, "workerinput"):
        return
    config.pluginmanager.register(Cleaner(run := uuid.uuid4().hex))
    os.environ[VARIABLE] = f"{os.environ.get(VARIABLE, '')} {run}"
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C
    atexit.register(kill_processes_of, run)


class Cleaner:
    """Ends the workers of xdist too when a run is stopped: they would take 20 s."""

    def __init__(self, run: str):
        self.run = run

    def pytest_keyboard_interrupt(self) -> None:
        """Kill at once; the end of the run looks again."""
        kill_processes_of(self.run)


def kill_processes_of(run: str) -> None:
    """Kill the processes that carry a run until there are none left."""
    deadline = time.monotonic() + LONGEST_S
    while (left := find_processes_of(run)) and time.monotonic() < deadline:
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=1)


def find_processes_of(run: str) -> list[psutil.Process]:
    """Return the processes that carry a run, but for this one."""
    return [
        process
        for process in psutil.process_iter()
        if process.pid != os.getpid() and run in _runs_of(process)
    ]


def _runs_of(process: psutil.Process) -> list[str]:
    """Return the runs that a process belongs to; none if it has ended or is another user's."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return []
        runs: str = process.environ().get(VARIABLE, "")
        return runs.split()
    except (psutil.Error, OSError):
        return []
