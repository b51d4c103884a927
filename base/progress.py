"""Show the progress of a long step: a bar in a terminal, otherwise a line every 10 seconds.

Progress goes to stderr, so stdout has results only.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from vchat.base.terminal_text import echo, escape_controls

LINE_EVERY_S = 10.0

Advance = Callable[[int], None]


@contextlib.contextmanager
def show_progress(title: str, *, total: int | None = None, unit: str = "") -> Iterator[Advance]:
    """Yield a function that takes how many more are done; prints no line if none are.

    Args:
        title: What is being done.
        total: None if it is not known before the end.
        unit: What is counted, in the plural.
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
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(escape_controls(title), total=total)
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
    echo(f"{title}: {done}{of} {unit} in {seconds:.0f} s", err=True)
