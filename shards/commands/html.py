"""`vchat-shards html`: a page of dialogues with their images."""

from __future__ import annotations

from pathlib import Path

import click

from vchat.base.terminal_text import echo
from vchat.shards.commands.options import SHARDS, SOURCE, SPLIT


@click.command("html")
@SHARDS
@click.option(
    "--out", type=click.Path(path_type=Path), help="The page. Default: NAME-OF-SHARDS.html here."
)
@click.option("--num", type=click.IntRange(min=1), default=60, show_default=True, help="Dialogues.")
@SPLIT
@SOURCE
def command(shards: str, out: Path | None, num: int, split: str | None, source: str | None) -> None:
    """Write one self-contained page of dialogues with their images, what carries loss marked.

    Dialogues are taken evenly from every source. The page loads nothing from anywhere.
    """
    from vchat.shards.format.open_shards import open_shards
    from vchat.shards.viewer.page import write_page

    opened = open_shards(shards)
    path = out or Path(f"{opened.name}.html")
    shown = write_page(path, opened, num=num, split=split, source=source)
    echo(f"{path}: {shown} dialogues")
