"""`vchat-shards`: look into a finished shard set. Heavy imports wait until a command runs."""

from __future__ import annotations

from pathlib import Path

import click

from vchat.base.cli import run_command
from vchat.shards.commands.plan import plan

SHARDS = click.argument("shards")
SPLIT = click.option("--split", help="Only this split (train, eval). Default: all.")
SOURCE = click.option("--source", help="Only this source. Default: all.")


@click.group()
def group() -> None:
    """Look into a finished shard set: what is in it, is it intact, what does the model read."""


@group.command()
@SHARDS
@SPLIT
@SOURCE
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def inspect(shards: str, split: str | None, source: str | None, as_json: bool) -> int:
    """Print counts per source and split, and whether all files are there.

    SHARDS is the folder or URL of `vchat-prep build --out`. Exits with 1 if a file is missing or of
    the wrong size; `verify` checks contents.
    """
    import json

    from vchat.shards.format.open_shards import open_shards
    from vchat.shards.inspect.inspection import overview
    from vchat.shards.inspect.terminal import print_overview

    found = overview(open_shards(shards), split=split, source=source)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        print_overview(found)
    return 1 if found["defects"] else 0


@group.command()
@SHARDS
@click.argument("number", type=click.IntRange(min=0))
@SPLIT
@SOURCE
def show(shards: str, number: int, split: str | None, source: str | None) -> None:
    """Print dialogue NUMBER (from 0) exactly as the model reads it, what carries loss marked.

    With --split or --source, NUMBER counts within those.
    """
    from vchat.shards.format.open_shards import open_shards
    from vchat.shards.inspect.inspection import row_at, select_samples
    from vchat.shards.inspect.terminal import print_sample

    opened = open_shards(shards)
    row = row_at(select_samples(opened, split=split, source=source), number)
    print_sample(opened, row)


@group.command()
@SHARDS
@click.option(
    "--out", type=click.Path(path_type=Path), help="The page. Default: NAME-OF-SHARDS.html here."
)
@click.option("--num", type=click.IntRange(min=1), default=60, show_default=True, help="Dialogues.")
@SPLIT
@SOURCE
def html(shards: str, out: Path | None, num: int, split: str | None, source: str | None) -> None:
    """Write one self-contained page of dialogues with their images, what carries loss marked.

    Dialogues are taken evenly from every source. The page loads nothing from anywhere.
    """
    from vchat.shards.format.open_shards import open_shards
    from vchat.shards.viewer.page import write_page

    opened = open_shards(shards)
    path = out or Path(f"{opened.name}.html")
    shown = write_page(path, opened, num=num, split=split, source=source)
    print(f"{path}: {shown} dialogues")


@group.command()
@SHARDS
def verify(shards: str) -> int:
    """Read everything and list each defect; exits with 1 if there is any.

    Checks the SHA-256 of every file, the checksum and place of every member, that each image has
    its slot, and that supervised tokens decode to the answers.
    """
    from vchat.base.progress import show_progress
    from vchat.shards.format.open_shards import open_shards
    from vchat.shards.inspect.verification import find_defects as defects_of

    opened = open_shards(shards)
    listed, num_defects = opened.manifest["shards"], 0
    with show_progress("verifying", total=len(listed), unit="shards") as advance:
        for defect in defects_of(opened, shard_done=advance):
            num_defects += 1
            print(defect)
    num_samples = sum(shard["samples"] for shard in listed)
    print(f"{num_samples} samples in {len(listed)} shards: {num_defects or 'no'} defects")
    return 1 if num_defects else 0


group.add_command(plan)


def main() -> None:
    """The console script `vchat-shards`."""
    run_command(group)
