"""A watchdog for hung ranks: if a step takes too long, print all stacks and end the process.

A rank that waits for a dead or stuck one waits in a collective, where Python cannot raise. The
timer is faulthandler's, which fires there too, on every rank that waits. A thread writes a line
before the stacks; a rank whose native code never releases the interpreter lock lacks that line.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import threading
import time
from collections.abc import Callable, Iterator

from vchat.base.terminal_text import echo

NOTICE_BEFORE_S = 1.0
"""How long before the stacks the line is written."""


@contextlib.contextmanager
def watchdog(timeout_s: float, *, rank: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that restarts the timer for a step; when the timer runs out, exit with 1.

    A restart costs microseconds. 0 means no watchdog.
    """
    if timeout_s <= 0:
        yield lambda step: None
        return
    current, latest = 0, math.inf
    ended = threading.Event()

    def announce() -> None:
        while not ended.wait(NOTICE_BEFORE_S / 2):
            if time.monotonic() > latest:
                echo(
                    f"rank {rank}: step {current} takes longer than run.hang_timeout_s = "
                    f"{timeout_s:g} s; this rank ends, its stacks follow",
                    err=True,
                )
                return

    def restart(step: int) -> None:
        nonlocal current, latest
        current, latest = step, time.monotonic() + timeout_s
        faulthandler.dump_traceback_later(timeout_s + NOTICE_BEFORE_S, exit=True, file=2)  # stderr

    threading.Thread(target=announce, name="watchdog", daemon=True).start()
    try:
        yield restart
    finally:
        ended.set()
        faulthandler.cancel_dump_traceback_later()
