"""`vchat-shards show`: one dialogue as the model reads it."""

from __future__ import annotations

import click

from vchat.shards.commands.options import SHARDS, SOURCE, SPLIT


@click.command("show")
@SHARDS
@click.argument("number", type=click.IntRange(min=0))
@SPLIT
@SOURCE
def command(shards: str, number: int, split: str | None, source: str | None) -> None:
    """Print dialogue NUMBER (from 0) exactly as the model reads it, what carries loss marked.

    With --split or --source, NUMBER counts within those.
    """
    from vchat.shards.format.open_shards import open_shards
    from vchat.shards.inspect.overview import row_at, select_samples
    from vchat.shards.inspect.terminal import print_sample

    opened = open_shards(shards)
    row = row_at(select_samples(opened, split=split, source=source), number)
    print_sample(opened, row)
