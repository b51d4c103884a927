"""The flags that set the keys of a recipe, for every command that reads one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Body = Callable[..., Any]

_OPTIONS = (
    click.option(
        "--datasets",
        metavar="A,B,MINE=FILE",
        help="Data sets, and your own as NAME=FILE or NAME=URL.",
    ),
    click.option("--data", metavar="DIR", help="Folder or URL that holds the data sets (data)."),
    click.option("--out", metavar="DIR", help="Folder of the shards, or URL: s3://, gs://, az://."),
    click.option("--work", metavar="DIR", help="Folder for work files, if --out is a URL."),
    click.option("--tokenizer", metavar="DIR", help="Folder with tokenizer.json."),
    click.option(
        "--recipe",
        type=click.Path(path_type=Path),
        help="TOML file or visualchat-9; flags override it.",
    ),
    click.option("--concatenate", metavar="N,N,..", help="Join 1 to N single-image records (1)."),
    click.option("--max-images", type=int, help="The most images of one dialogue (8)."),
    click.option("--image-size", type=int, help="Shorter side in pixels, never enlarged (224)."),
    click.option("--eval-fraction", type=float, help="Share of photographs held out (0.01)."),
    click.option(
        "--identity",
        type=click.Choice(["bytes", "path"]),
        help="What makes two pictures the same one (bytes; path in object storage).",
    ),
    click.option("--seed", type=int, help="Decides split, groups and order (0)."),
    click.option("--workers", type=int, help="Processes that convert and write (1)."),
    click.option("--limit", type=int, help="Use at most this many records of each data set."),
    click.option("--shard-size", metavar="SIZE", help="Approximate size of a shard (256MB)."),
    click.option(
        "--max-tokens", type=int, help="The longest sample, image positions included (4096)."
    ),
    click.option("--positions-per-image", type=int, help="Positions that an image takes (257)."),
    click.option(
        "--template",
        metavar="NAME",
        help="visualchat, chat: the tokenizer's own, or visualchat-published.",
    ),
)


def recipe_options(body: Body) -> Body:
    """Add the flags of a recipe to the function of a command, in the order that help shows."""
    for option in reversed(_OPTIONS):
        body = option(body)
    return body
