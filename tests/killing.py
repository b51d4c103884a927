"""Kills commands at random moments (SIGKILL, the whole process group) and starts them again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence

from training_runs import environment


def killed_until_done(
    command: Sequence[str],
    *,
    longest_s: float,
    rng: random.Random,
    most: int = 12,
    after_kill: Callable[[], None] = lambda: None,
) -> int:
    """Run a command again and again, killed after a random time, then let it end; count kills.

    Args:
        longest_s: the latest moment of a kill, from the start of the command.
        most: kills after which the command is left alone.
        after_kill: looks at what a kill has left.
    """
    for kills in range(most):
        child = subprocess.Popen(
            command,
            env=environment(),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            _, said = child.communicate(timeout=rng.uniform(0.1, longest_s))
            assert child.returncode == 0, said.decode()[-2000:]
            return kills
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        time.sleep(0.5)  # ranks that the launcher started in groups of their own notice and end
        after_kill()
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return most
