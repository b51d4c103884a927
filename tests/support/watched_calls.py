"""Calls in processes of their own, each watched: time, memory, what it printed, how it ended.

The processes are forked from a server that has imported what they need and has run nothing.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path

MB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a call ended."""

    code: int | None
    """The exit code; None if it was killed because it took too long."""

    out: str
    err: str
    seconds: float
    grown_bytes: int
    """The most memory it had at a time, beyond what the process began with."""

    def complaints(self, *, limit_s: float, limit_bytes: int) -> list[str]:
        """Return what no command may do: a traceback, no exit, no line, too much memory."""
        found = []
        lines = self.err.strip().splitlines()
        if self.code is None or self.seconds > limit_s:
            found.append(f"took {self.seconds:.0f} s")
        elif self.code not in (0, 1, 2):
            found.append(f"exit code {self.code}")
        if "Traceback" in self.err or "Traceback" in self.out:
            found.append(f"traceback: {lines[-1]}")
        elif self.code in (1, 2) and not self.out.strip() and not is_one_error(lines):
            found.append(f"no line that says why: {lines[-3:]}")
        if "\x1b" in self.out + self.err:
            found.append("an escape for the terminal")
        if self.grown_bytes > limit_bytes:
            found.append(f"{self.grown_bytes // MB} MB more memory")
        return found


def is_one_error(lines: Sequence[str]) -> bool:
    """Whether lines end in one error with words in it, after nothing but what a library says."""
    errors = [line for line in lines if line.startswith("error: ")]
    return len(errors) == 1 and len(lines[-1]) > len("error: ") and lines[-1] == errors[0]


def make_server(*modules: str) -> ForkServerContext:
    """Return a context whose processes begin with these modules imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *modules])
    return context


def watch_call(
    context: ForkServerContext,
    call: Callable[..., object],
    *arguments: object,
    folder: Path,
    limit_s: float,
) -> Outcome:
    """Call a function in a process of its own, and wait for it.

    Args:
        context: Of `make_server`.
        call: A function of a module; what it returns does not matter.
        arguments: Of the call.
        folder: Where the call runs and has its home; its output is kept beside it.
        limit_s: After which it is killed.
    """
    files = [folder.with_name(f"{folder.name}.{kind}") for kind in ("out", "err", "memory")]
    process = context.Process(target=_call, args=(call, arguments, folder, files))
    start = time.monotonic()
    process.start()
    process.join(limit_s)
    seconds = time.monotonic() - start
    killed = process.is_alive()
    if killed:
        process.kill()
        process.join()
    out, err = (path.read_text(errors="replace") for path in files[:2])
    grown = json.loads(files[2].read_text() or "0") if files[2].exists() else 0
    for path in files:
        path.unlink(missing_ok=True)
    code = None if killed else process.exitcode
    return Outcome(code=code, out=out, err=err, seconds=seconds, grown_bytes=grown)


def _call(
    call: Callable[..., object], arguments: Sequence[object], folder: Path, files: Sequence[Path]
) -> None:
    """Redirect output, call, and leave with the code that a command would leave with."""
    for path, descriptor in zip(files[:2], (1, 2), strict=True):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, descriptor)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    os.environ["HOME"] = str(folder)
    os.chdir(folder)
    before = _peak_bytes()
    code = 0
    try:
        call(*arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 99
    files[2].write_text(str(_peak_bytes() - before))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
