"""Progress of a long command on stderr: a bar for a person, a line every 10 s for a log."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 10.0


@contextlib.contextmanager
def counted(what: str, *, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show progress for the length of the block; yields a function that takes how many are done.

    The last line of a log says how long all of it took.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        with Progress(
            TextColumn(what),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeRemainingColumn(),
            console=console,
        ) as bar:
            task = bar.add_task(what, total=total)
            yield lambda number: bar.advance(task, number)
    else:
        yield from _lines(console, f"{what}: {{}} of {total} {unit} in {{:.0f}} s")


def _lines(console: Console, line: str) -> Iterator[Callable[[int], None]]:
    started = shown = time.monotonic()
    done = 0

    def add(number: int) -> None:
        nonlocal done, shown
        done += number
        if time.monotonic() - shown >= LINE_EVERY_S:
            shown = time.monotonic()
            console.print(line.format(done, shown - started))

    yield add
    console.print(line.format(done, time.monotonic() - started))
