"""A watchdog for hung ranks: if a step takes too long, all stacks are printed and the process ends.

A rank that waits for a dead or stuck one waits in a collective, where Python cannot raise. The
timer belongs to the interpreter, so it fires there too, on every rank that waits.
"""

from __future__ import annotations

import contextlib
import faulthandler
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def watchdog(timeout_s: float) -> Iterator[Callable[[], None]]:
    """Yield a function that winds the timer up anew; without a call for `timeout_s`, exit with 1.

    Winding up costs microseconds. 0 means no watchdog.
    """
    if timeout_s <= 0:
        yield lambda: None
        return

    def wind_up() -> None:
        faulthandler.dump_traceback_later(timeout_s, exit=True, file=2)  # stderr

    try:
        yield wind_up
    finally:
        faulthandler.cancel_dump_traceback_later()
