"""Ray for tests: in a network namespace of its own, so that no packet leaves it.

As a program, `ray_cluster.py OUT COMMAND..` starts a cluster of a head and two machines, runs the
command with the cluster's address as its last word, and kills one machine in mid-build.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ADDRESS = "10.77.0.1"
SETUP = f"""
ip link set lo up
ip addr add {ADDRESS}/32 dev lo
ip route add default dev lo src {ADDRESS}
exec "$@"
"""
MEMORY = 80 * 2**20
"""Of each machine's object store in bytes; the tasks of a build put nothing there."""


def in_namespace(command: Sequence[str]) -> list[str]:
    """Return the command line that runs a command where no network is but its own."""
    return ["unshare", "--map-root-user", "--net", "sh", "-ec", SETUP, "sh", *command]


def why_no_namespace() -> str:
    """Return why this machine cannot make one; empty if it can."""
    try:
        tried = subprocess.run(in_namespace(["true"]), capture_output=True, text=True)
    except FileNotFoundError as err:
        return f"no {err.filename}"
    return tried.stderr.strip() if tried.returncode else ""


def run_in_namespace(command: Sequence[object]) -> subprocess.CompletedProcess[str]:
    """Run a command in a network of its own and return how it ended."""
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    words = in_namespace([str(word) for word in command])
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)


def main(out: Path, command: Sequence[str]) -> int:
    """Run the command, kill a machine while both write a shard; return the command's exit code."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": MEMORY}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        machines = [cluster.add_node(num_cpus=1, object_store_memory=MEMORY) for _ in range(2)]
        cluster.wait_for_nodes()
        build = subprocess.Popen([*command, cluster.address])
        while build.poll() is None and not two_running(out):
            time.sleep(0.005)
        if build.poll() is not None:
            sys.stdout.write("the build ended before two shards were being written at once\n")
            return build.returncode or 1
        cluster.remove_node(machines[0], allow_graceful=False)
        sys.stdout.write(f"killed a machine; shards in work: {len(running_tasks(out))}\n")
        return build.wait()
    finally:
        cluster.shutdown()


def running_tasks(out: Path) -> set[str]:
    """Return the numbers of the shards that have been begun, apart from those that are done."""
    work = out / ".work"
    begun = {path.name for path in (work / "progress").glob("*")}
    plan_order = sorted(path.stem for path in (work / "results").glob("*.json"))
    done = {str(number) for number in map(shard_number, plan_order)}
    return begun - done


def shard_number(name: str) -> int:
    """Return the number in `train-000004`; there is only one split in these builds."""
    return int(name.rpartition("-")[2])


def two_running(out: Path) -> bool:
    """Tell whether some shards are done and both machines are writing one."""
    return any((out / ".work/results").glob("*.json")) and len(running_tasks(out)) >= 2


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
