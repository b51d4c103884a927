"""`vchat-prep build`: flags and what it prints; the work is in `prep.pipeline.build`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vchat.base.terminal_text import echo
from vchat.prep.commands.recipe_options import recipe_options
from vchat.prep.commands.summaries import print_plan, print_summary

if TYPE_CHECKING:
    from vchat.prep.convert.recipe import Recipe
    from vchat.prep.pipeline.planning import PlannedBuild


@click.command("build")
@recipe_options
@click.option("--dry-run", is_flag=True, help="Print the plan and write no shard.")
@click.option(
    "--engine", type=click.Choice(["processes", "ray"]), help="What runs the tasks (processes)."
)
@click.option(
    "--ray-address",
    metavar="HOST:PORT",
    help="Address of the Ray cluster (starts one on this machine).",
)
@click.option(
    "--task", metavar="I/N", help="Write part I of N (from 0) of the shards that `plan` planned."
)
def command(recipe: Path | None, dry_run: bool, task: str | None, **flags: Any) -> None:
    """Convert data sets into a shard set.

    Started again after it was stopped, a build goes on with the shards that are missing.
    """
    from vchat.base.cli import WrongUse
    from vchat.prep.convert.recipe import read_recipe
    from vchat.prep.pipeline.build import build_shards

    if task is not None:
        _run_share(task, {"recipe": recipe, "dry_run": dry_run or None} | flags)
        return
    if flags["engine"] == "ray" and flags["workers"] is not None:
        raise WrongUse("--workers cannot be used with --engine ray: a cluster runs a task per CPU")
    full_recipe = read_recipe(recipe, flags)
    if dry_run:
        print_plan(_make_plan(full_recipe))
    else:
        print_summary(build_shards(full_recipe))


def _run_share(task: str, flags: dict[str, Any]) -> None:
    from vchat.base.cli import WrongUse
    from vchat.prep.pipeline.array_build import parse_array_output, parse_share, run_share

    share, output = parse_share(task), parse_array_output(flags.pop("out"), work=flags.pop("work"))
    if given := [name.replace("_", "-") for name, value in flags.items() if value is not None]:
        raise WrongUse(f"--{given[0]} cannot be used with --task: the plan holds it already")
    count = run_share(output, share)
    echo(f"task {task}: {count} shards written in {output}")


def _make_plan(recipe: Recipe) -> PlannedBuild:
    """Return the plan; without --out, discard the converted records."""
    import tempfile

    from vchat.prep.pipeline.build import recipe_output
    from vchat.prep.pipeline.planning import plan_build

    if recipe.out is not None:
        return plan_build(recipe, work=recipe_output(recipe).work)
    with tempfile.TemporaryDirectory() as folder:
        return plan_build(recipe, work=Path(folder))
