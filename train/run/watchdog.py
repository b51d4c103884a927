"""A watchdog for hung ranks: if a step takes too long, all stacks are printed and the process ends.

A rank that waits for a dead or stuck one waits in a collective, where Python cannot raise. The
timer belongs to the interpreter, so it fires there too, on every rank that waits. One line before
the stacks says what they are; it is a thread's, so a rank stuck in foreign code may lack it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator

NOTICE_BEFORE_S = 1.0
"""The line comes so long before the stacks."""


@contextlib.contextmanager
def watchdog(timeout_s: float, *, rank: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that winds the timer up for a step; when that runs out, exit with 1.

    Winding up costs microseconds. 0 means no watchdog.
    """
    if timeout_s <= 0:
        yield lambda step: None
        return
    current, latest = 0, math.inf
    ended = threading.Event()

    def tell() -> None:
        while not ended.wait(NOTICE_BEFORE_S / 2):
            if time.monotonic() > latest:
                sys.stderr.write(
                    f"rank {rank}: step {current} takes longer than run.hang_timeout_s = "
                    f"{timeout_s:g} s; this rank ends, its stacks follow\n"
                )
                return

    def wind_up(step: int) -> None:
        nonlocal current, latest
        current, latest = step, time.monotonic() + timeout_s
        faulthandler.dump_traceback_later(timeout_s + NOTICE_BEFORE_S, exit=True, file=2)  # stderr

    threading.Thread(target=tell, name="watchdog", daemon=True).start()
    try:
        yield wind_up
    finally:
        ended.set()
        faulthandler.cancel_dump_traceback_later()
