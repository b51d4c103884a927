"""`vchat-prep sources`: every data set, what to download, and where to put it."""

from __future__ import annotations

import click


@click.command("sources")
def command() -> None:
    """List the data sets: what to download, and where to put it."""
    from vchat.prep.sources.catalogue import find_source, source_names

    for source in map(find_source, source_names()):
        click.echo(click.style(source.name, bold=True))
        click.echo(f"  {source.about}")
        for need in source.needs:
            click.echo(f"  {' or '.join(need.paths)}")
            click.echo(f"      {need.how}")
        if source.all_splits:
            click.echo(f"  splits: {', '.join(source.splits)}; a recipe's `splits` may name others")
            click.echo(f"      of {', '.join(source.all_splits)}")
        click.echo(f"  licence: {source.licence}\n")
    click.echo("Paths are below the folder that --data names. A .zip or .tar may replace an")
    click.echo("image folder (coco/train2017.zip). Your own data: --datasets NAME=FILE,")
    click.echo(
        "a JSON array, JSONL or Parquet of LLaVA-style `conversations` or OpenAI `messages`;"
    )
    click.echo("image paths are searched beside FILE, then below --data.")
