"""`vchat-train report`: write the page and the picture of a run's curves, print their paths."""

from __future__ import annotations

from pathlib import Path

import click

from vchat.base.terminal_text import echo


@click.command("report")
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
def report(out: Path) -> None:
    """Draw the curves of the run in OUT (its run.out folder): OUT/report.html and report.png."""
    from vchat.train.logs.report import write_report

    for path in write_report(out):
        echo(path)
