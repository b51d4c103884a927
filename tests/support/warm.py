"""Processes that begin with the trainer imported: a server imports it once and forks.

To import the trainer takes a process seconds, more than most tests need for their steps. In all
else a fork is like a process of its own: environment, arguments, output, exit code.

    done = run_command("vchat-train", "heldout", "--checkpoint", folder)
    ranks = run_ranks(f"{__file__}:measure", run_file, processes=2)
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
LAUNCHERS_VARIABLES = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}


def environment() -> dict[str, str]:
    """One thread per process, and no launcher's variables."""
    kept = {name: value for name, value in os.environ.items() if name not in LAUNCHERS_VARIABLES}
    return kept | {"OMP_NUM_THREADS": "1"}


def free_port() -> str:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def run_command(
    name: str, *words: object, stdin: str = "", timeout_s: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run one of our console scripts without a launcher."""
    call = tomllib.loads(PROJECT.read_text())["project"]["scripts"][name]
    program = [name, *map(str, words)]
    (done,) = _run(call, [], program=program, variables=[{}], stdin=stdin, timeout_s=timeout_s)
    return done


def run_ranks(
    call: str,
    *arguments: object,
    processes: int,
    program: Sequence[object] = ("ranks",),
    timeout_s: float = 300,
) -> list[subprocess.CompletedProcess[str]]:
    """Call a function in each of several ranks, which find each other as under a launcher.

    Args:
        call: `MODULE:FUNCTION`, or `FILE.py:FUNCTION`.
        arguments: values of JSON; paths become strings.
        processes: how many ranks.
        program: its name and words, as `sys.argv` shows them.
        timeout_s: after which all are killed.
    """
    shared = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    ranks = [shared | {"RANK": str(n), "LOCAL_RANK": str(n)} for n in range(processes)]
    given = [str(one) if isinstance(one, Path) else one for one in arguments]
    words = [str(word) for word in program]
    return _run(call, given, program=words, variables=ranks, stdin="", timeout_s=timeout_s)


def _run(
    call: str,
    arguments: Sequence[object],
    *,
    program: Sequence[str],
    variables: Sequence[Mapping[str, str]],
    stdin: str,
    timeout_s: float,
) -> list[subprocess.CompletedProcess[str]]:
    """Run a call in as many processes as there are sets of variables."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").write_text(stdin)
        outputs = [[folder / f"{n}.out", folder / f"{n}.err"] for n in range(len(variables))]
        codes = _ask(
            {
                "call": call,
                "arguments": arguments,
                "program": program,
                "environments": [{**environment(), **one} for one in variables],
                "folder": os.getcwd(),  # noqa: PTH109
                "input": str(folder / "in"),
                "outputs": [[str(path) for path in pair] for pair in outputs],
                "timeout_s": timeout_s,
            }
        )
        said = [[path.read_text() for path in pair] for pair in outputs]
    return [
        subprocess.CompletedProcess(call, code, *pair)
        for code, pair in zip(codes, said, strict=True)
    ]


def _ask(request: dict[str, object]) -> list[int]:
    """Send a request to the server of this process, and wait for the exit codes."""
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    print(json.dumps(request), file=server.stdin, flush=True)
    answer = server.stdout.readline()
    assert answer, "the server of warm processes has ended"
    return [int(code) for code in json.loads(answer)]


@functools.cache
def _server() -> subprocess.Popen[str]:
    """Start the server when the first test needs it; it ends with this process."""
    command = [sys.executable, "-m", "vchat_testing.warm_server"]
    server = subprocess.Popen(
        command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(_stop, server)
    return server


def _stop(server: subprocess.Popen[str]) -> None:
    server.terminate()
    server.wait()
