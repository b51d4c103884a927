"""`vchat-prep doctor`: flags, the table, and the exit code; the work is in `convert.doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vchat.base.terminal_text import cell, echo

if TYPE_CHECKING:
    from vchat.prep.convert.doctor import Finding
    from vchat.prep.convert.resolve import ResolvedSource


@click.command("doctor")
@click.option(
    "--data", metavar="DIR", default="data", help="Folder or URL that holds the data sets."
)
@click.option("--datasets", metavar="A,B,MINE=FILE", help="Data sets that must be ready (all).")
@click.option(
    "--sample", type=click.IntRange(min=1), default=500, help="Rows of each to convert and decode."
)
@click.option("--max-images", type=int, default=8, help="The build's limit for one dialogue.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(data: str, datasets: str | None, sample: int, max_images: int, as_json: bool) -> int:
    """Say which data sets are there, what is missing, what will be lost.

    Exits with 1 if a data set that is named cannot be built.
    """
    findings = _examine_sources(data, datasets, sample=sample, max_images=max_images)
    if as_json:
        import json

        echo(json.dumps({one.name: one.as_json() for one in findings}, indent=1))
    else:
        _print_table(findings)
        for one in findings:
            _print_details(one, is_named=datasets is not None)
    unready = [one.name for one in findings if one.status != "ready"]
    if datasets is not None and unready:
        echo(f"cannot be built: {', '.join(unready)}", err=True)
        return 1
    return 0


def _examine_sources(data: str, datasets: str | None, **limits: int) -> list[Finding]:
    from vchat.base.cli import WrongUse
    from vchat.prep.convert.recipe import read_recipe
    from vchat.prep.convert.resolve import resolve_source
    from vchat.prep.raw.data_path import data_path
    from vchat.prep.sources.catalogue import source_names

    if not data_path(data).is_dir():
        raise WrongUse(f"--data {data}: there is no such folder, or nothing in it")

    flags = {"datasets": ",".join(source_names()) if datasets is None else datasets, "data": data}
    recipe = read_recipe(None, flags)
    return [
        _examine_source(resolve_source(choice, recipe=recipe), **limits) for choice in recipe.source
    ]


def _examine_source(one: ResolvedSource, **limits: int) -> Finding:
    from vchat.base.progress import show_progress
    from vchat.prep.convert.doctor import examine_source

    with show_progress(f"examine {one.source.name}", unit="rows") as advance:
        return examine_source(one, on_entry=lambda: advance(1), **limits)


def _print_table(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("data set", "status", "packaging", "count", "images", box=None, pad_edge=False)
    for one in findings:
        packagings = dict.fromkeys(need.packaging for need in one.needs if need.packaging)
        formats = ", ".join(f"{name} {n}" for name, n in one.trial.formats.most_common())
        counted = one.comparison or (f"{one.num_entries} rows" if one.num_entries else "")
        found = (one.name, one.status, ", ".join(packagings), counted, formats)
        table.add_row(*map(cell, found))
    Console(width=None if Console().is_terminal else 120).print(table)


def _print_details(one: Finding, *, is_named: bool) -> None:
    """Print what is missing and how to get it, and what the trial found."""
    lines = [one.problem.removeprefix(f"{one.name}: ")] if one.status == "broken" else []
    for need in one.needs:
        if not need.paths and (is_named or any(other.paths for other in one.needs)):
            lines.append(f"missing: {' or '.join(need.need.paths)}; {need.need.how}")
        if need.missing_parts:
            lines.append(f"missing of the files beside it: {', '.join(need.missing_parts[:5])}")
    losses = one.estimate_losses()
    for reason, count in one.trial.rejected.items():
        share = f"{count} of {one.trial.num_entries} rows tried"
        lines.append(f"expect to lose about {losses[reason]} rows: {reason} ({share})")
    for rule, count in one.trial.repairs.items():
        lines.append(f"image ids found by the rule {rule}: {count} of {one.trial.num_images} tried")
    for line in lines:
        echo(f"  {one.name}: {line}")
