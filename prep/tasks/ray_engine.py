"""Run the tasks of a build on a Ray cluster whose machines share the output folder.

In: the work folder and the numbers of the missing shards. Out: those shards, written by whatever
machines the cluster has. Ray runs a task again when its machine is lost; a task writes one whole
shard under a fixed name, so a second run, even beside the first, changes nothing. Needs the
extra `ray`: the same vchat on every machine, the output folder and the data at the same paths.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vchat.base.cli import WrongUse
from vchat.base.processes import read_counters
from vchat.prep.tasks.job import JOB_FILE
from vchat.prep.tasks.local_engine import PROGRESS_FOLDER, run_counted_task

POLL_S = 0.5
CONNECT_S = 10.0
RETRIES = 8
"""How often one task may lose its machine; after that the task itself is the likely cause."""


def run_tasks(
    work: Path,
    numbers: Sequence[int],
    *,
    address: str | None,
    on_dialogues: Callable[[int], None],
) -> None:
    """Run the tasks of the given shard numbers, one per CPU of the cluster.

    Args:
        work: The work folder.
        numbers: Of the shards, in the plan.
        address: Of the cluster, as `ray.init` takes it; None starts Ray on this machine alone.
        on_dialogues: Called with how many more dialogues are written, for progress.

    Raises:
        WrongUse: Ray is not installed.
        OSError: A task failed, there is no cluster at the address, or machines were lost again and
            again.
    """
    with _connect(address) as ray:
        remote = ray.remote(num_cpus=1, max_retries=RETRIES)(_run_task_on_node)
        pending = [remote.remote(str(work.absolute()), number) for number in numbers]
        num_reported = 0
        while pending:
            done, pending = ray.wait(pending, num_returns=len(pending), timeout=POLL_S)
            num_written = read_counters(work / PROGRESS_FOLDER)
            on_dialogues(num_written - num_reported)
            num_reported = num_written
            raise_failures(ray, done)


@contextlib.contextmanager
def _connect(address: str | None) -> Iterator[Any]:
    """Yield Ray, connected; without an address, to a cluster of its own, never to a running one."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as err:
        raise WrongUse("--engine ray needs Ray: pip install 'vchat[ray]'") from err
    if address:
        _check_answers(address)
    where = {"address": address} if address else {"address": "local", "include_dashboard": False}
    try:
        ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError) as err:
        raise OSError(f"no Ray cluster at {address}: {str(err).splitlines()[0]}") from err
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Check that something listens at `HOST:PORT`; Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
        except OSError as err:
            raise OSError(f"no Ray cluster at {address}: {err.strerror or err}") from err


def _run_task_on_node(work: str, number: int) -> None:
    """Run one task on whatever machine this is."""
    if not (Path(work) / JOB_FILE).exists():
        raise OSError(
            f"{socket.gethostname()} of the Ray cluster does not see {work}: every machine needs"
            " the output folder at the same path"
        )
    run_counted_task(Path(work), number)


def raise_failures(ray: Any, done: Sequence[Any]) -> None:
    """Raise the first error of finished tasks as it was raised in the task."""
    try:
        ray.get(list(done))
    except ray.exceptions.RayTaskError as err:
        raise err.cause from err
    except ray.exceptions.RayError as err:
        raise OSError(
            f"Ray gave up on a task: {str(err).splitlines()[0]}; run the same command again to go"
            " on from the finished shards"
        ) from err
