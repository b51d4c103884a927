"""A run on two hosts, one of which dies and comes back.

Two torchrun agents in network namespaces, shards in an S3 server on the switch between them,
run.out in a folder that both see.

The run goes on alone on the host that is left, and on both when the other is back. It ends with the
samples of an undisturbed run in every step, and its losses within rounding.

Long: `make soak`.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vchat_testing.hosts import SWITCH, Host, in_own_network, make_switch
from vchat_testing.s3_server import new_bucket, serve_s3
from vchat_testing.training_runs import (
    BIN,
    log_of,
    losses,
    run_here,
    training_shards,
    write_run,
)
from vchat_testing.warm import environment

pytestmark = pytest.mark.soak

STEPS = 120
SETTINGS = [
    "batch.rows_per_step=30",  # so that the run does not end before the second host is back
    f"run.steps={STEPS}",
    "run.save_every=5",
    "run.eval_every=0",
    "run.keep_last=0",
]
FOR_ELASTIC_AGENTS = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""Else an agent that comes back waits for an address that torch 2.14 writes in round one only."""
LONGEST_S = 420
"""Between any two events; with the machine to itself it is some 30."""


@pytest.fixture
def can_make_networks() -> None:
    tried = in_own_network(Path(os.devnull))
    if shutil.which("ip") is None or subprocess.run(tried, capture_output=True).returncode:
        pytest.skip("network namespaces cannot be made here")


def test_a_host_that_dies_and_comes_back_changes_neither_data_nor_losses(
    tmp_path, can_make_networks
):
    shards = training_shards(tmp_path / "shards")
    run_here(write_run(tmp_path / "undisturbed", shards=shards), *SETTINGS)
    command = in_own_network(Path(__file__), str(tmp_path))
    surroundings = environment() | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = subprocess.run(command, capture_output=True, text=True, env=surroundings)
    said = "".join(log.read_text()[-3000:] for log in sorted(tmp_path.glob("agent-*.log")))
    assert done.returncode == 0, done.stdout + done.stderr[-3000:] + said
    found, wanted = tmp_path / "disturbed" / "out", tmp_path / "undisturbed" / "out"
    assert [line["step"] for line in log_of(found)] == list(range(1, STEPS + 1))
    assert [line["sample_sum"] for line in log_of(found)] == [
        line["sample_sum"] for line in log_of(wanted)
    ]
    assert losses(found) == pytest.approx(losses(wanted), abs=1e-3)
    sizes = [world_size(found, step) for step in saved_steps(found)]
    assert sizes[0] == 2
    assert 1 in sizes
    assert sizes[-1] == 2


class Events:
    """What happened when, on stdout: shown if the test fails."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def tell(self, what: str) -> None:
        """Print one event with the seconds since the start."""
        sys.stdout.write(f"{time.monotonic() - self._begun:.0f} s: {what}\n")
        sys.stdout.flush()


def saved_steps(out: Path) -> list[int]:
    return sorted(int(folder.name[5:]) for folder in out.glob("step-*"))


def world_size(out: Path, step: int) -> int:
    state = json.loads((out / f"step-{step:06d}" / "state.json").read_text())
    return int(state["world_size"])


def agent(host: Host, run_file: Path, *settings: str, folder: Path, bucket: dict[str, str]):
    """Start torchrun on a host: it trains with whoever is there."""
    words = ["--nnodes=1:2", "--nproc-per-node=1", "--max-restarts=20", "--rdzv-id=two-hosts"]
    words += ["--rdzv-backend=c10d", "--rdzv-endpoint=10.77.0.1:29400"]
    limits = "last_call_timeout=5,keep_alive_interval=1,keep_alive_max_attempt=5"
    words += [f"--rdzv-conf={limits},is_host={int(host.number == 1)}"]  # no name service here
    words += [f"--local-addr={host.address}", "-m", "vchat.train", "run", str(run_file)]
    return host.start(
        [str(BIN / "torchrun"), *words, *[w for s in settings for w in ("--set", s)]],
        environment=environment() | bucket | FOR_ELASTIC_AGENTS | {"GLOO_SOCKET_IFNAME": "eth0"},
        log=folder / f"agent-{host.number}.log",
    )


def wait_for_world(
    out: Path, size: int, *, after: int, leader: "subprocess.Popen[bytes]", events: Events
) -> int:
    """Wait for a checkpoint behind step `after` that so many processes made; returns its step."""
    deadline = time.monotonic() + LONGEST_S
    while time.monotonic() < deadline:
        for step in saved_steps(out):
            if step > after and world_size(out, step) == size:
                events.tell(f"{size} processes have saved step {step}")
                return step
        assert leader.poll() is None, f"the first host's agent ended with {leader.returncode}"
        time.sleep(0.1)
    raise AssertionError(f"{size} processes have saved nothing behind step {after}")


def play(folder: Path) -> None:
    """Two hosts start, the second dies, comes back, and both end with 0."""
    make_switch()
    (folder / "s3").mkdir()
    with serve_s3(folder / "s3", address=SWITCH) as endpoint:
        bucket = new_bucket(endpoint)
        bucket.put_folder(folder / "shards", "set")
        run_file, out = write_run(folder / "disturbed", shards=Path("unused")), folder / "disturbed"
        settings = [f"data.shards={bucket.url}/set", "run.hang_timeout_s=10", *SETTINGS]
        events = Events()

        def start(number: int) -> tuple[Host, "subprocess.Popen[bytes]"]:
            host = Host(number)
            facts = bucket.environment
            return host, agent(host, run_file, *settings, folder=folder, bucket=facts)

        first, leader = start(1)
        second, _ = start(2)
        step = wait_for_world(out / "out", 2, after=0, leader=leader, events=events)
        second.die()
        events.tell("the second host is dead")
        step = wait_for_world(out / "out", 1, after=step, leader=leader, events=events)
        second, follower = start(2)
        events.tell("the second host is back")
        wait_for_world(out / "out", 2, after=step, leader=leader, events=events)
        assert (leader.wait(LONGEST_S), follower.wait(LONGEST_S)) == (0, 0)
        events.tell("both agents ended with 0")
        for host in (first, second):
            host.die()


if __name__ == "__main__":
    play(Path(sys.argv[1]))
