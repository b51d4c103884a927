"""`vchat-prep finish`: flags and what it prints; the work is in `prep.pipeline.array_build`."""

from __future__ import annotations

import click

from vchat.prep.commands.summaries import print_summary


@click.command("finish")
@click.option("--out", metavar="DIR", required=True, help="Folder or URL, as given to `plan`.")
@click.option("--work", metavar="DIR", help="Folder of work files, as given to `plan`.")
def command(out: str, work: str | None) -> None:
    """Check that the tasks of a plan are done, and publish the shards."""
    from vchat.prep.pipeline.array_build import finish_array_build, parse_array_output

    print_summary(finish_array_build(parse_array_output(out, work=work)))
