"""The processes of a run: their environment before torch is imported, connection, and signals.

`deepspeed` and `torchrun` set RANK, WORLD_SIZE and so on; without them the run is one process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from vchat.base.imports import pause_collection
from vchat.base.terminal_text import echo


@dataclass(frozen=True, slots=True, kw_only=True)
class RankShare:
    """Which part of every step this process reads."""

    rank: int
    world_size: int
    ranks_per_node: int = 1
    """Ranks on this machine, which share its cache of shards."""


def prepare_environment() -> None:
    """Fill in what the launcher did not set. Call before torch or DeepSpeed is imported.

    Without an accelerator, DeepSpeed's own detection is skipped and every process gets its
    share of the cores: more threads than cores make all ranks slow.
    """
    os.environ.setdefault("RANK", "0")
    os.environ.setdefault("LOCAL_RANK", "0")
    os.environ.setdefault("WORLD_SIZE", "1")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    if "MASTER_PORT" not in os.environ:
        os.environ["MASTER_PORT"] = str(_free_port())
    local = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ["WORLD_SIZE"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // local)))
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

    with pause_collection():
        import torch

    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def end_with_launcher() -> None:
    """End this process within a second or so if the launcher that started it is killed.

    Otherwise the ranks of a killed run go on alone and keep the next run out of its folder. Under
    `deepspeed` the launcher is two processes, one the parent of the other. It may be gone already:
    a rank takes seconds to come here.
    """
    launchers = find_launchers(
        os.getpid(),
        by_deepspeed=_is_started_by_deepspeed(),
        by_torchrun="TORCHELASTIC_RUN_ID" in os.environ,
    )

    def watch() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # for the main thread
        while launchers and all(_parent_of(child) == parent for parent, child in launchers.items()):
            time.sleep(1.0)
        echo("the launcher is gone; this process ends", err=True)
        os._exit(1)

    threading.Thread(target=watch, name="launcher-watch", daemon=True).start()


def find_launchers(process: int, *, by_deepspeed: bool, by_torchrun: bool) -> dict[int, int]:
    """Return the launcher's processes, each with its child; empty if one of them is gone.

    Orphans become children of process 1. In a container the launcher itself may be process 1: its
    command line tells.
    """
    parent = _parent_of(process)
    launchers = {parent: process}
    if by_deepspeed:
        if b"deepspeed.launcher.launch" not in _command_of(parent):
            return {}
        grandparent = _parent_of(parent)
        if grandparent == 1 and b"deepspeed" not in _command_of(grandparent):
            return {}
        launchers[grandparent] = parent
    if by_torchrun and parent == 1 and b"python" not in _command_of(parent).split(b"\0")[0]:
        return {}
    return launchers


def _is_started_by_deepspeed() -> bool:
    """Tell whether DeepSpeed's launcher started this process: it alone adds this argument."""
    return any(word.startswith("--local_rank") for word in sys.argv)


def _command_of(process: int) -> bytes:
    """The command line of a process, empty if there is no such process."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _parent_of(process: int) -> int:
    """The parent of a process, or 0 if there is no such process."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(status.rpartition(")")[2].split()[1])


def connect_processes() -> tuple[int, int]:
    """Connect the processes of this run, once. Returns `(rank, world size)`."""
    import logging

    with pause_collection():
        import deepspeed
        import transformers
        from deepspeed.utils.logging import logger

    logger.setLevel(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()  # of the library: our bar is enough
    # Tells DeepSpeed that it can compile nothing. On a CPU it would otherwise compile a collective
    # for inference at every first start, and wait for ever if a compilation was once killed.
    deepspeed.ops.__compatible_ops__ = {}
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def count_local_ranks() -> int:
    """Return how many processes of the run are on this machine, as its launcher says; else 1."""
    number = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or "1"
    return int(number)


def disconnect_processes() -> None:
    """Disconnect this process; without it the last one to end warns about the others."""
    import torch.distributed as dist

    dist.destroy_process_group()


@contextlib.contextmanager
def explain_lost_ranks() -> Iterator[None]:
    """Turn the failure of a collective into one line: the rank that failed first says why.

    Raises:
        ConnectionError: in place of what torch raises on the ranks that were left waiting.
    """
    from torch.distributed import DistError

    try:
        yield
    except RuntimeError as err:
        if isinstance(err, DistError) or "Connection closed by peer" in str(err):
            rank = os.environ["RANK"]
            raise ConnectionError(f"rank {rank} lost another rank, which says why") from err
        raise


def block_sigusr1() -> None:
    """Let a SIGUSR1 during start-up wait for a `StopRequest` to remember it.

    Slurm sends it once; it would end the process, or be lost where the launcher ignores it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])


class StopRequest:
    """Remembers, inside its block, that SIGTERM or SIGUSR1 asked this process to save and end.

    A signal reaches ranks at different moments, so `requested` of one rank decides nothing: the
    loop adds it up over all ranks, at the end of a step.
    """

    def __init__(self) -> None:
        self.is_requested = False

    def __enter__(self) -> StopRequest:
        self._old_handlers = {
            number: signal.signal(number, self._remember)
            for number in (signal.SIGTERM, signal.SIGUSR1)
        }
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        self.is_requested = True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
