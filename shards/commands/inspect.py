"""`vchat-shards inspect`: counts per source and split."""

from __future__ import annotations

import json

import click

from vchat.base.terminal_text import echo
from vchat.shards.commands.options import SHARDS, SOURCE, SPLIT


@click.command("inspect")
@SHARDS
@SPLIT
@SOURCE
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def command(shards: str, split: str | None, source: str | None, as_json: bool) -> int:
    """Print counts per source and split, and whether all files are there.

    SHARDS is the folder or URL of `vchat-prep build --out`. Exits with 1 if a file is missing or of
    the wrong size; `verify` checks contents.
    """
    from vchat.shards.format.open_shards import open_shards
    from vchat.shards.inspect.overview import overview
    from vchat.shards.inspect.terminal import print_overview

    found = overview(open_shards(shards), split=split, source=source)
    if as_json:
        echo(json.dumps(found, indent=1))
    else:
        print_overview(found)
    return 1 if found["defects"] else 0
