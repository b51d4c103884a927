"""`vchat-prep plan` and `finish`: the ends of a build whose tasks are jobs of an array."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vchat.prep.commands.build import print_plan, print_summary
from vchat.prep.commands.recipe_options import recipe_options


@click.command("plan", help="Convert data sets and plan their shards, for `build --task I/N`.")
@recipe_options
def plan(recipe: Path | None, **flags: Any) -> None:
    """Make the plan and say how to go on."""
    from vchat.prep.build.array_build import plan_array_build
    from vchat.prep.convert.recipe import read_recipe

    prepared = plan_array_build(read_recipe(recipe, flags))
    print_plan(prepared)
    out, work = prepared.recipe.out, prepared.recipe.work
    place = f"--out {out}" if work is None else f"--out {out} --work {work}"
    click.echo(f"next: vchat-prep build {place} --task I/N, for I from 0 to N - 1;")
    click.echo(f"then: vchat-prep finish {place}")


@click.command("finish", help="Check that the tasks of a plan are done, and publish the shards.")
@click.option("--out", metavar="DIR", required=True, help="Folder or URL, as given to `plan`.")
@click.option("--work", metavar="DIR", help="Folder of work files, as given to `plan`.")
def finish(out: str, work: str | None) -> None:
    """Publish and print the summary; a set that is complete is left as it is."""
    from vchat.prep.build.array_build import finish_array_build, parse_array_output

    print_summary(finish_array_build(parse_array_output(out, work=work)))
