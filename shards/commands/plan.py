"""`vchat-shards plan`: what an epoch over shard sets will be, before anything is read."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vchat.base.terminal_text import cell, echo

if TYPE_CHECKING:
    from vchat.shards.format.shard_set import ShardSet
    from vchat.shards.pixels.grid import Tiling
    from vchat.shards.plan.arguments import PlanArguments, SourceShare

POSITIVE = click.IntRange(min=1)


@click.command("plan")
@click.argument("shards", nargs=-1, required=True)
@click.option("--rows-per-step", type=POSITIVE, required=True, help="Over all ranks.")
@click.option("--tokens-per-row", type=POSITIVE, required=True, help="Positions in a row.")
@click.option("--images-per-row", type=click.IntRange(min=0), help="At most. Default: no limit.")
@click.option(
    "--positions-per-image", type=POSITIVE, help="Default: what the shards were made for."
)
@click.option("--max-tiles", type=click.IntRange(min=2), help="Cut larger images into tiles.")
@click.option("--tile-side", type=POSITIVE, help="In pixels, with --max-tiles: the tower's side.")
@click.option(
    "--rows-per-micro-batch", type=POSITIVE, default=1, show_default=True, help="On one rank."
)
@click.option("--ranks", type=POSITIVE, default=1, show_default=True, help="Of the run.")
@click.option("--split", default="train", show_default=True, help="Such as train, eval.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order.")
@click.option("--epoch", type=click.IntRange(min=0), default=0, show_default=True, help="From 0.")
@click.option("--window", type=POSITIVE, default=8, show_default=True, help="Shards that mix.")
@click.option("--lanes", type=POSITIVE, default=1, show_default=True, help="Streams of shards.")
@click.option(
    "--balanced-rows",
    type=POSITIVE,
    default=1,
    show_default=True,
    help="Successive rows of about equal cost: ranks times rows per micro-batch.",
)
@click.option("--mix", multiple=True, metavar="SOURCE=WEIGHT[,CAP]", help="May be repeated.")
@click.option("--set-weight", "set_weights", type=float, multiple=True, help="One for each SHARDS.")
@click.option(
    "--exclude", type=click.Path(path_type=Path), help="Keys to leave out: text lines or Parquet."
)
@click.option(
    "--on-too-long",
    type=click.Choice(["error", "exclude"]),
    default="error",
    show_default=True,
    help="What to do with samples that do not fit into a row.",
)
@click.option(
    "--tail",
    type=click.Choice(["pad", "drop"]),
    default="pad",
    show_default=True,
    help="What to do with rows that do not fill the last step.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def command(shards: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Print what one epoch over SHARDS holds and costs: steps, tokens, padding, bytes, shuffle.

    SHARDS are folders or URLs; several are read as one. The numbers equal what the loader
    delivers; requests and bytes of shards behind a URL are those without a cache. Nothing is read
    but the index of the shards.
    """
    from vchat.shards.format.open_shards import open_shards
    from vchat.shards.loading.rank_work import describe_plan
    from vchat.shards.plan.joined_sets import join_sets

    opened = [open_shards(folder) for folder in shards]
    sets = join_sets(opened, split=options["split"])
    arguments = read_plan_arguments(opened, options)
    found = describe_plan(
        sets,
        arguments,
        rows_per_step=options["rows_per_step"],
        rows_per_micro_batch=options["rows_per_micro_batch"],
        world_size=options["ranks"],
    )
    if as_json:
        echo(json.dumps(found, indent=1))
    else:
        print_table(found)
    if found["unknown_keys"]:
        from vchat.shards.plan.excluded_keys import describe_unknown_keys

        unknown, num_keys = found["unknown_keys"], len(arguments.exclude)
        name = f"--exclude {options['exclude']}"
        echo(describe_unknown_keys(unknown, num_keys=num_keys, name=name), err=True)


def read_plan_arguments(shard_sets: list[ShardSet], options: dict[str, Any]) -> PlanArguments:
    """Turn the options of the command into arguments of a plan."""
    from vchat.shards.plan.arguments import PlanArguments
    from vchat.shards.plan.excluded_keys import read_keys

    unlimited = options["tokens_per_row"]  # an image takes at least one position
    per_image = options["positions_per_image"] or shard_sets[0].limit("positions_per_image")
    return PlanArguments(
        split=options["split"],
        seed=options["seed"],
        epoch=options["epoch"],
        tokens_per_row=options["tokens_per_row"],
        images_per_row=unlimited
        if options["images_per_row"] is None
        else options["images_per_row"],
        positions_per_image=per_image,
        tiling=read_tiling(options),
        shuffle_window_shards=options["window"],
        lanes=options["lanes"],
        balanced_rows=options["balanced_rows"],
        mix=tuple(read_source_share(text) for text in options["mix"]),
        set_weights=options["set_weights"],
        exclude=read_keys(options["exclude"]) if options["exclude"] else (),
        on_too_long=options["on_too_long"],
        tail=options["tail"],
    )


def read_tiling(options: dict[str, Any]) -> Tiling | None:
    """Read `--max-tiles` and `--tile-side`, which go together."""
    from vchat.shards.pixels.grid import Tiling

    max_tiles, side = options["max_tiles"], options["tile_side"]
    if (max_tiles is None) != (side is None):
        raise click.UsageError("--max-tiles and --tile-side go together")
    return None if max_tiles is None else Tiling(max_tiles=max_tiles, side=side)


def read_source_share(text: str) -> SourceShare:
    """Read `SOURCE=WEIGHT` or `SOURCE=WEIGHT,CAP`."""
    from vchat.shards.plan.arguments import SourceShare

    source, _, numbers = text.partition("=")
    weight, _, cap = numbers.partition(",")
    try:
        return SourceShare(source=source, weight=float(weight), cap=int(cap) if cap else None)
    except ValueError as err:
        raise click.UsageError(
            f"--mix {text!r}: wanted SOURCE=WEIGHT or SOURCE=WEIGHT,CAP"
        ) from err


def print_table(found: dict[str, Any]) -> None:
    """Print a plan for people: counts with separators, shares as per cent, ranks as a range."""
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "value", box=None, header_style="bold")
    for name, value in found.items():
        if isinstance(value, int | float):
            table.add_row(name.replace("_", " "), format_number(name, value))
    for source, count in found["sources"].items():
        share = count / max(1, found["samples"])
        table.add_row(cell(f"samples of {source}"), f"{count:,} ({share:.1%})")
    for name, values in found["per_rank"].items():
        if isinstance(values, list):
            table.add_row(f"{name} per rank", format_range(values))
    table.add_row("image imbalance", f"{found['per_rank']['image_imbalance']:.3f}")
    Console(file=sys.stdout, width=120).print(table)
    for what in ("excluded", "dropped"):
        keys = found[f"{what}_keys"]
        if keys:
            echo(f"{what}: {', '.join(keys[:10])}{' ...' if len(keys) > 10 else ''}")


def format_range(values: list[int]) -> str:
    """Return the least and the most of some counts, or the one they all are."""
    return " to ".join(f"{value:,}" for value in sorted({min(values), max(values)}))


def format_number(name: str, value: float) -> str:
    """Return a number as people read it."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2%}" if "share" in name or "fill" in name else f"{value:.3f}"
