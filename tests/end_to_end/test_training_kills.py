"""Thirty random kills of a training on S3 shards.

SIGKILL to one rank, to all processes, to the launcher, and SIGTERM, under `torchrun` and
`deepspeed` in turns. After each the same run is started again. It ends with the same samples in
every step, and the same losses to the last digit, as one that nobody disturbed. Long: `make soak`.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from vchat_testing.training_runs import command_line, log_of, training_shards, write_run
from vchat_testing.warm import environment

pytestmark = pytest.mark.soak

STEPS, KILLS = 300, 30
SETTINGS = [
    f"run.steps={STEPS}",
    "run.save_every=7",
    "run.eval_every=100",
    "run.keep_last=2",
    "deepspeed.zero_stage=2",
]


def ranks_of(launcher: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The two processes that train: those with no children of their own."""
    started = psutil.Process(launcher.pid).children(recursive=True)
    return [process for process in started if "vchat.train" in process.cmdline()[2:4]]


def kill_one_rank(launcher: subprocess.Popen[bytes], rng: random.Random) -> None:
    rng.choice(ranks_of(launcher)).kill()


def kill_all(launcher: subprocess.Popen[bytes], rng: random.Random) -> None:
    for process in [*psutil.Process(launcher.pid).children(recursive=True), launcher]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def kill_the_launcher(launcher: subprocess.Popen[bytes], rng: random.Random) -> None:
    launcher.kill()


def ask_to_stop(launcher: subprocess.Popen[bytes], rng: random.Random) -> None:
    for process in ranks_of(launcher):
        process.send_signal(signal.SIGTERM)


WAYS: list[Callable[[subprocess.Popen[bytes], random.Random], None]] = [
    kill_one_rank,
    kill_all,
    kill_the_launcher,
    ask_to_stop,
]


def num_steps(out: Path) -> int:
    log = out / "log.jsonl"
    return len(log.read_bytes().splitlines()) if log.exists() else 0


def disturb(command: list[str], out: Path, rng: random.Random, *, kills_left: int) -> str:
    """Start the command, let it get on a few steps, end it in a random way; return which."""
    most = max(1, (STEPS - 1 - num_steps(out)) // kills_left)
    wanted, way = num_steps(out) + rng.randint(1, most), rng.choice(WAYS)
    with subprocess.Popen(
        command, env=surroundings(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as launcher:
        deadline = time.monotonic() + 300
        while num_steps(out) < wanted:
            assert launcher.poll() is None, launcher.communicate()[1].decode()[-3000:]
            assert time.monotonic() < deadline, f"stuck at step {num_steps(out)}"
            time.sleep(0.003)
        time.sleep(rng.uniform(0, 0.1))
        family = psutil.Process(launcher.pid).children(recursive=True)
        way(launcher, rng)
        said = launcher.communicate(timeout=300)[1].decode()
        if way is ask_to_stop:
            assert launcher.returncode == 0, said[-3000:]
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []
    return way.__name__


def surroundings() -> dict[str, str]:
    return environment() | {name: os.environ[name] for name in os.environ if name[:4] == "AWS_"}


def test_thirty_kills_change_neither_data_nor_losses(s3, tmp_path):
    s3.put_folder(training_shards(tmp_path / "shards"), "set")
    undisturbed, killed = (
        write_run(tmp_path / name, shards=Path("unused")) for name in ("undisturbed", "killed")
    )

    def command(run_file: Path, number: int) -> list[str]:
        launcher = "deepspeed" if number % 8 == 0 else "torchrun"
        where = [f"data.shards={s3.url}/set", *SETTINGS]
        return command_line(run_file, *where, processes=2, launcher=launcher)

    subprocess.run(command(undisturbed, 1), env=surroundings(), check=True, capture_output=True)
    rng, ways, stopped_at, begun = random.Random(6), set(), set(), time.monotonic()
    out = killed.parent / "out"
    for number in range(KILLS):
        way = disturb(command(killed, number), out, rng, kills_left=KILLS - number)
        ways.add(way)
        stopped_at |= {num_steps(out)} if way == "ask_to_stop" else set()
        sys.stderr.write(f"{time.monotonic() - begun:.0f} s: {way} at step {num_steps(out)}\n")
    subprocess.run(command(killed, 1), env=surroundings(), check=True, capture_output=True)
    assert ways == {way.__name__ for way in WAYS}
    found, wanted = log_of(out), log_of(undisturbed.parent / "out")
    assert [line["step"] for line in found] == list(range(1, STEPS + 1))
    for name in ("sample_sum", "supervised_tokens", "loss"):
        assert [line[name] for line in found] == [line[name] for line in wanted], name
    measured, whole = (
        {line["step"]: line["eval_loss"] for line in log if "eval_loss" in line}
        for log in (found, wanted)
    )
    assert whole.keys() - measured.keys() <= stopped_at  # who is asked to stop does not evaluate
    assert measured.items() <= whole.items()
