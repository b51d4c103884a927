"""`vchat-prep sources`: every data set, what to download, and where to put it."""

from __future__ import annotations

import click

from vchat.base.terminal_text import echo


@click.command("sources")
def command() -> None:
    """List the data sets: what to download, and where to put it."""
    from vchat.prep.sources.catalogue import find_source, source_names

    for source in map(find_source, source_names()):
        echo(source.name, bold=True)
        echo(f"  {source.about}")
        for need in source.needs:
            echo(f"  {' or '.join(need.paths)}")
            echo(f"      {need.how}")
        if source.all_splits:
            echo(f"  splits: {', '.join(source.splits)}; a recipe's `splits` may name others")
            echo(f"      of {', '.join(source.all_splits)}")
        echo(f"  licence: {source.licence}\n")
    echo("Paths are below the folder that --data names. A .zip or .tar may replace an")
    echo("image folder (coco/train2017.zip). Your own data: --datasets NAME=FILE,")
    echo("a JSON array, JSONL or Parquet of LLaVA-style `conversations` or OpenAI `messages`;")
    echo("image paths are searched beside FILE, then below --data.")
