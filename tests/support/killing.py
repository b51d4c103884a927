"""Kills commands at random moments (SIGKILL, the whole process group) and starts them again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from vchat_testing.training_runs import BIN
from vchat_testing.warm import environment

DATASETS = "llava,llava_dial,ocr_vqa,otter_mimicit_cgd,otter_mimicit_sd,sparkles_dialogue"


def sample_data(folder: Path) -> Path:
    """Draw a small world into a folder."""
    command = [
        str(BIN / "vchat-prep"),
        "sample-data",
        "--out",
        str(folder),
        "--images",
        "600",
        "--seed",
        "9",
    ]
    subprocess.run(command, check=True, env=environment())
    return folder


def build_command(data: Path, out: str, *more: str) -> list[str]:
    """Return the command that builds some 40 small shards of it with two workers."""
    words = [BIN / "vchat-prep", "build", "--datasets", DATASETS, "--data", data, "--out", out]
    words += ["--tokenizer", data / "tokenizer", "--workers", "2", "--shard-size", "200kB"]
    words += ["--image-size", "64", "--positions-per-image", "5", *more]
    return [str(word) for word in words]


def kill_until_done(
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
