"""`vchat-prep plan`: flags and what it prints; the work is in `prep.pipeline.array_build`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vchat.base.terminal_text import echo
from vchat.prep.commands.recipe_options import recipe_options
from vchat.prep.commands.summaries import print_plan


@click.command("plan")
@recipe_options
def command(recipe: Path | None, **flags: Any) -> None:
    """Convert data sets and plan their shards, for `build --task I/N`."""
    from vchat.prep.convert.recipe import read_recipe
    from vchat.prep.pipeline.array_build import plan_array_build

    planned = plan_array_build(read_recipe(recipe, flags))
    print_plan(planned)
    out, work = planned.recipe.out, planned.recipe.work
    folders = f"--out {out}" if work is None else f"--out {out} --work {work}"
    echo(f"next: vchat-prep build {folders} --task I/N, for I from 0 to N - 1;")
    echo(f"then: vchat-prep finish {folders}")
