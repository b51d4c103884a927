"""A real Slurm of two nodes, both of them this machine: a controller and two `slurmd` on loopback.

Needs Debian's `slurm-wlm` (without its services) and no authentication daemon: the nodes are not
checked. They have no GPU, and names that resolve nowhere, see `NAMES`.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from vchat_testing.s3_server import free_ports

START_S = 30.0

CONF = """
ClusterName=vchat
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SlurmdParameters=config_overrides
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=64
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=64
PartitionName=all Nodes=ALL Default=YES State=UP
"""
"""`cred_expire` is also how many seconds a job waits that is queued again."""

NAMES = """#!/bin/bash
if [ "$1 $2" = "show hostnames" ]; then echo 127.0.0.1; else exec {scontrol} "$@"; fi
"""
"""A `scontrol` that knows the addresses of the nodes; all else is Slurm's."""


def is_installed() -> bool:
    """Whether this machine has Slurm's daemons and commands."""
    return all(shutil.which(name) for name in ("slurmctld", "slurmd", "sbatch"))


@contextlib.contextmanager
def two_nodes(folder: Path) -> Iterator[dict[str, str]]:
    """Run the daemons during the block; yields the variables by which commands find them.

    Raises:
        RuntimeError: the nodes did not come up; with what the daemons said.
    """
    controller, first, second = free_ports(3)
    folder.mkdir()
    (folder / "state").mkdir()
    conf = folder / "slurm.conf"
    facts = {"host": socket.gethostname(), "user": getpass.getuser(), "folder": folder}
    conf.write_text(CONF.format(controller=controller, first=first, second=second, **facts))
    names = folder / "bin" / "scontrol"
    names.parent.mkdir()
    names.write_text(NAMES.format(scontrol=shutil.which("scontrol")))
    names.chmod(0o755)
    variables = {"SLURM_CONF": str(conf), "PATH": f"{names.parent}:{os.environ['PATH']}"}
    commands = [["slurmctld", "-i", "-D"], *(["slurmd", "-N", f"node{n}", "-D"] for n in (1, 2))]
    daemons = [_daemon(command, variables, said=folder / "said.log") for command in commands]
    try:
        _wait_until_idle(variables, folder)
        yield variables
    finally:
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(30)


def squeue(variables: dict[str, str], fields: str) -> str:
    """What Slurm says about all jobs, in the fields of `squeue --format`."""
    command = ["squeue", "--noheader", "--format", fields]
    surroundings = os.environ | variables
    return subprocess.run(
        command, env=surroundings, capture_output=True, text=True, check=True
    ).stdout.strip()


def _daemon(
    command: list[str], variables: dict[str, str], *, said: Path
) -> subprocess.Popen[bytes]:
    with said.open("ab") as log:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            env=os.environ | variables,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _wait_until_idle(variables: dict[str, str], folder: Path) -> None:
    command = ["sinfo", "--noheader", "--format", "%D %T"]
    deadline = time.monotonic() + START_S
    while True:
        asked = subprocess.run(
            command, env=os.environ | variables, capture_output=True, text=True, timeout=60
        )
        if asked.stdout.strip() == "2 idle":
            return
        if time.monotonic() > deadline:
            logs = "".join(log.read_text()[-1500:] for log in sorted(folder.glob("*.log")))
            raise RuntimeError(f"Slurm is not up: {asked.stdout}{asked.stderr}{logs}")
        time.sleep(0.2)
