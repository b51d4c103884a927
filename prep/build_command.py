"""`vchat-prep build`: flags and what it prints; the work is in `prep.build`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from vchat.prep.build import Built, Prepared


@click.command("build", help="Convert data sets into a shard set that is ready for training.")
@click.option("--datasets", metavar="A,B,MINE=FILE", help="Data sets, and your own as NAME=FILE.")
@click.option("--data", metavar="DIR", help="Folder that holds the data sets (data).")
@click.option("--out", metavar="DIR", help="Folder of the shards.")
@click.option("--tokenizer", metavar="DIR", help="Folder with tokenizer.json.")
@click.option(
    "--recipe", type=click.Path(path_type=Path), help="TOML file or visualchat-9; flags go on top."
)
@click.option("--concatenate", metavar="N,N,..", help="Join 1 to N single-image records (1).")
@click.option("--max-images", type=int, help="The most images of one dialogue (8).")
@click.option("--image-size", type=int, help="Shorter side in pixels, never enlarged (224).")
@click.option("--eval-fraction", type=float, help="Share of photographs held out (0.01).")
@click.option("--seed", type=int, help="Decides split, groups and order (0).")
@click.option("--workers", type=int, help="Processes that write shards (1).")
@click.option("--limit", type=int, help="Use at most this many records of each data set.")
@click.option("--shard-size", metavar="SIZE", help="About how large a shard is (256MB).")
@click.option("--max-tokens", type=int, help="The longest sample, image positions included (4096).")
@click.option("--positions-per-image", type=int, help="Positions that an image takes (257).")
@click.option("--template", metavar="NAME", help="visualchat, or chat: the tokenizer's own.")
@click.option("--dry-run", is_flag=True, help="Print the plan and write no shard.")
def command(recipe: Path | None, dry_run: bool, **flags: Any) -> None:
    """Read the flags and build, or print the plan."""
    from vchat.prep.build import build
    from vchat.prep.recipe import read_recipe

    wanted = read_recipe(recipe, flags)
    if dry_run:
        _print_plan(_planned(wanted))
    else:
        _print_summary(build(wanted))


def _planned(recipe: Any) -> Prepared:
    """Return the plan; without --out the converted records are thrown away."""
    import tempfile

    from vchat.prep.build import prepare

    if recipe.out is not None:
        return prepare(recipe, work=Path(recipe.out) / ".work")
    with tempfile.TemporaryDirectory() as folder:
        return prepare(recipe, work=Path(folder))


def _print_plan(prepared: Prepared) -> None:
    plan = prepared.plan
    for split in dict.fromkeys(shard.split for shard in plan.shards):
        shards = [shard for shard in plan.shards if shard.split == split]
        dialogues = sum(shard.end - shard.start for shard in shards)
        size = sum(shard.stored_bytes for shard in shards) / 1e6
        click.echo(
            f"{split}: {len(shards)} shards, about {size:.1f} MB, {dialogues} dialogues,"
            f" {sum(shard.records for shard in shards)} records,"
            f" {sum(shard.images for shard in shards)} images"
        )
    for staged in prepared.staged:
        tally, unused = staged.tally, plan.unused[staged.source]
        rejected = tally["rejected_rows"]["counts"]
        click.echo(
            f"{staged.source}: {tally['rows']} rows, {tally['records']} records,"
            f" rejected rows {_counts(rejected)}, left out by the plan {_counts(unused)}"
        )
    click.echo(f"plan {plan.digest}")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in counts.items()) or "none"


def _print_summary(built: Built) -> None:
    from vchat.prep.report import rejections, repairs

    if built.already_complete:
        click.echo(f"{built.out} holds this build already, complete")
    shards = built.report["shards"]
    click.echo(
        f"{shards['shards']} shards, {shards['samples']} samples, {shards['rounds']} rounds,"
        f" {shards['images']} images, {shards['bytes'] / 1e6:.1f} MB in {built.out}"
    )
    for name, one in built.report["sources"].items():
        click.echo(f"  {name}: {one['converted']['rows']} rows, {one['used_records']} records used")
    for name, rule, count in repairs(built.report):
        click.echo(f"  {name}: {count} image ids found by the rule {rule}")
    for line in rejections(built.report):
        click.echo(
            f"  {line['source']}: {line['count']} x {line['kind']} rejected,"
            f" {line['reason']} ({line['meaning']})"
        )
    click.echo(f"report: {built.out / 'report.html'}")
