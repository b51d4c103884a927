"""Show how far a long step is: a bar in a terminal, a plain line now and then elsewhere.

Progress goes to stderr, so that results on stdout stay clean.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

LINE_EVERY_S = 10.0

Advance = Callable[[int], None]


@contextlib.contextmanager
def show_progress(title: str, *, total: int | None = None, unit: str = "") -> Iterator[Advance]:
    """Yield a function that is told how many more are done; if none are, no line is printed.

    Args:
        total: None if it is not known before the end.
        unit: what is counted, plural.
    """
    if sys.stderr.isatty():
        with _show_bar(title, total=total, unit=unit) as advance:
            yield advance
    else:
        with _show_lines(title, total=total, unit=unit) as advance:
            yield advance


@contextlib.contextmanager
def _show_bar(title: str, *, total: int | None, unit: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)


@contextlib.contextmanager
def _show_lines(title: str, *, total: int | None, unit: str) -> Iterator[Advance]:
    done, start = 0, time.monotonic()
    said = start

    def advance(count: int) -> None:
        nonlocal done, said
        done += count
        now = time.monotonic()
        if now - said >= LINE_EVERY_S:
            said = now
            _print_line(title, done=done, total=total, unit=unit, seconds=now - start)

    yield advance
    if done:
        _print_line(title, done=done, total=total, unit=unit, seconds=time.monotonic() - start)


def _print_line(title: str, *, done: int, total: int | None, unit: str, seconds: float) -> None:
    of = "" if total is None else f" of {total}"
    sys.stderr.write(f"{title}: {done}{of} {unit} in {seconds:.0f} s\n")
    sys.stderr.flush()
