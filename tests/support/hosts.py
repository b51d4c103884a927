"""Hosts that are network namespaces of this machine, joined by a switch. No traffic leaves it.

A process that uses them runs in a namespace of its own, which holds the switch: see
`in_own_network`. Needs Linux and the command `ip`; not root, where user namespaces are allowed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

SWITCH = "10.77.0.254"


def in_own_network(script: Path, *words: str) -> list[str]:
    """Return the command that runs a script of this Python in a new, empty network.

    All that the script has started ends with it, however it ends.
    """
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    alone = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return ["unshare", *alone, *as_root, sys.executable, str(script), *words]


def make_switch() -> None:
    """Let hosts be joined to the network that this process runs in; it is `SWITCH` there."""
    ip("link set lo up")
    ip("link add switch address 02:00:00:00:00:fe type bridge")  # else it changes with its ports
    ip(f"address add {SWITCH}/24 dev switch")
    ip("link set switch up")


def ip(words: str) -> None:
    """Run one `ip` command."""
    subprocess.run(["ip", *words.split()], check=True, capture_output=True)


def network_of(process: int | str) -> Path:
    """Name the network that a process is in."""
    return Path(f"/proc/{process}/ns/net").readlink()


class Host:
    """One host: an address, and processes that know no other network."""

    def __init__(self, number: int):
        """Make host `number` and plug it in."""
        self.number, self.address = number, f"10.77.0.{number}"
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        self._processes: list[subprocess.Popen[bytes]] = []
        while network_of(self._holder.pid) == network_of("self"):
            time.sleep(0.01)
        ip(f"link add port{number} type veth peer name eth0 netns {self._holder.pid}")
        ip(f"link set port{number} master switch up")
        for words in ("link set lo up", f"address add {self.address}/24 dev eth0"):
            self._inside(["ip", *words.split()])
        self._inside(["ip", "link", "set", "eth0", "up"])

    def start(
        self, command: Sequence[str], *, environment: Mapping[str, str], log: Path
    ) -> subprocess.Popen[bytes]:
        """Start a command on this host; what it says is appended to a file."""
        with log.open("ab") as said:
            process = subprocess.Popen(
                [*self._prefix, *command], env=dict(environment), stdout=said, stderr=said
            )
        self._processes.append(process)
        return process

    def die(self) -> None:
        """Pull the plug, then end all processes: nobody hears of their end."""
        ip(f"link delete port{self.number}")
        for process in self._processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            process.kill()
            process.wait()
        self._processes.clear()
        self._holder.kill()
        self._holder.wait()

    @property
    def _prefix(self) -> list[str]:
        return ["nsenter", "--net", f"--target={self._holder.pid}", "--"]

    def _inside(self, command: Sequence[str]) -> None:
        subprocess.run([*self._prefix, *command], check=True, capture_output=True)
