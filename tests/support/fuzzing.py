"""Runs hostile input in a process of its own, and says how that ended: time, memory, outcome.

The process is warmed up by input that is in order, so its memory at rest holds every library. What
a command turns into one line (`ValueError`, `OSError`) is `refused`; any other exception would be
a traceback.
"""

from __future__ import annotations

import multiprocessing
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

PATIENCE_S = 20.0
MAX_GROWTH_MB = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one case ended."""

    kind: Literal["done", "refused", "traceback", "hang", "died"]
    message: str = ""
    seconds: float = 0.0
    growth_mb: int = 0
    """Peak of resident memory above that at rest."""

    def find_fault(self) -> str:
        """Say what is wrong with this end; empty if nothing is."""
        if self.kind not in ("done", "refused"):
            return f"{self.kind}: {self.message}"
        if self.kind == "refused" and (not self.message or "\n" in self.message):
            return f"not one line: {self.message!r}"
        if "accounted for" in self.message:
            return f"rows are lost: {self.message}"
        if self.growth_mb > MAX_GROWTH_MB:
            return f"{self.growth_mb} MB above rest ({self.message or 'done'})"
        return ""


class Sandbox:
    """A process that runs a function on one case after another."""

    def __init__(self, run: Callable[[Any], object], *, warm: Sequence[Any]):
        """`run` is a function of a module; `warm` are cases that are in order."""
        self._run = run
        self._warm = warm
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._end, theirs = context.Pipe()
        arguments = (theirs, self._run, self._warm)
        self._process = context.Process(target=serve_cases, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        assert self._end.poll(300), "the process did not warm up"
        self._end.recv()

    def try_case(self, case: Any) -> Outcome:
        """Run one case; a process that hangs or dies is replaced."""
        started = time.monotonic()
        self._end.send(case)
        try:
            if self._end.poll(PATIENCE_S):
                outcome: Outcome = self._end.recv()
                return outcome
            outcome = Outcome(kind="hang", seconds=time.monotonic() - started)
        except EOFError:
            self._process.join()
            outcome = Outcome(kind="died", message=f"exit code {self._process.exitcode}")
        self.close()
        self._start()
        return outcome

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._end.close()


def serve_cases(end: Connection, run: Callable[[Any], object], warm: Sequence[Any]) -> None:
    """Run cases from a pipe until it closes."""
    for case in warm:
        run(case)
    at_rest = _resident_mb("VmRSS")
    end.send(None)
    while True:
        try:
            case = end.recv()
        except EOFError:
            return
        end.send(_run_case(run, case, at_rest=at_rest))


def _run_case(run: Callable[[Any], object], case: Any, *, at_rest: int) -> Outcome:
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    started, kind, message = time.monotonic(), "done", ""
    try:
        run(case)
    except (ValueError, OSError) as err:
        kind, message = "refused", str(err)
    except Exception:
        kind, message = "traceback", traceback.format_exc()
    return Outcome(
        kind=kind,  # type: ignore[arg-type]
        message=message,
        seconds=time.monotonic() - started,
        growth_mb=_resident_mb("VmHWM") - at_rest,
    )


def _resident_mb(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith(f"{field}:")]
    return int(line.split()[1]) // 1024
