"""`vchat-train plan`: flags, the table, and the exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from vchat.base.imports import pause_collection
from vchat.base.terminal_text import cell, echo
from vchat.train.commands.options import AS_JSON, RUN_FILE, SETTINGS
from vchat.train.config.run import find_run_file, read_run
from vchat.train.costs.gpus import GPUS

POSITIVE = click.IntRange(min=1)


@click.command("plan")
@RUN_FILE
@SETTINGS
@click.option("--gpus", type=POSITIVE, default=1, show_default=True, help="How many processes.")
@click.option("--gpus-per-node", type=POSITIVE, default=8, show_default=True)
@click.option("--gpu", type=click.Choice(sorted(GPUS)), help="Sets memory and operations.")
@click.option("--gpu-memory", type=click.FloatRange(min=0.001), help="Of one GPU, GB (10^9 bytes).")
@click.option("--gpu-tflops", type=click.FloatRange(min=1e-6), help="Of one GPU at best.")
@click.option(
    "--mfu",
    type=click.FloatRange(min=0, max=1, min_open=True),
    default=0.4,
    show_default=True,
    help="Share of that the run reaches.",
)
@AS_JSON
def plan(
    run_file: Path,
    overrides: tuple[str, ...],
    gpus: int,
    gpus_per_node: int,
    gpu: str | None,
    gpu_memory: float | None,
    gpu_tflops: float | None,
    mfu: float,
    as_json: bool,
) -> None:
    """Print what a run will do and need, before any GPU is rented.

    Steps, tokens, padding, images and bytes come from the shards' index; memory from parameter
    counts and from a narrow twin of the model that is run here; hours from operations, --mfu and
    the GPU. Of the folders of decoder and tower only the configuration is read. With --gpu or
    --gpu-memory, a run that does not fit ends with exit code 1, and with the settings under which
    it would fit.
    """
    config = read_run(find_run_file(run_file), overrides=overrides)
    from vchat.train.engine.processes import prepare_environment

    prepare_environment()
    with pause_collection():
        from vchat.train.forecast.forecast import Cluster, forecast_run

    known = GPUS[gpu] if gpu else None
    cluster = Cluster(
        gpus=gpus,
        gpus_per_node=gpus_per_node,
        memory_gb=gpu_memory or (known.memory_gb if known else None),
        tflops=gpu_tflops or (known.tflops if known else None),
        mfu=mfu,
    )
    found = forecast_run(config, cluster=cluster)
    if as_json:
        echo(json.dumps(found, indent=1))
    else:
        print_forecast(found, title=str(run_file))
        print_unknown_keys(found["epoch"], name=f"data.exclude = {config.data.exclude}")
    if found["memory"].get("fits") is False:
        sys.exit(1)


def print_forecast(found: Mapping[str, Mapping[str, Any]], *, title: str) -> None:
    """Print a forecast for people, topic by topic, and the verdict in words below it."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=cell(title), title_justify="left", box=box.SIMPLE, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    for topic, facts in found.items():
        table.add_row(f"[bold]{topic}[/]", "")
        for name, value in facts.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                table.add_row(f"  {name.replace('_', ' ')}", format_value(name, value, topic=topic))
        table.add_section()
    Console(file=sys.stdout).print(table)
    if found["time"]["hours"] is None:
        echo("Hours and network rate need --gpu, or --gpu-tflops.")
    echo(describe_verdict(found["memory"]))


def print_unknown_keys(epoch: Mapping[str, Any], *, name: str) -> None:
    """Print one line on stderr about keys of the exclude list that no sample has, if there are."""
    from vchat.shards.plan.excluded_keys import describe_unknown_keys

    unknown, num_keys = epoch["unknown_keys"], epoch["keys_to_exclude"]
    if unknown:
        echo(describe_unknown_keys(unknown, num_keys=num_keys, name=name), err=True)


def format_value(name: str, value: float, *, topic: str) -> str:
    """Return a number as people read it, with its unit."""
    if (topic == "memory" and name != "gpus_that_fit_unchanged") or name.startswith("bytes"):
        return format_bytes(value)
    if name == "operations":
        return f"{value:.3g} FLOPs"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.1%}" if name.endswith("share") else f"{value:,.4g}"


def format_bytes(value: float) -> str:
    """Return bytes in the largest unit of which there is at least one."""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f} B"


def describe_verdict(memory: Mapping[str, Any]) -> str:
    """Say whether the run fits, and what would make it fit."""
    total = format_bytes(memory["total"])
    if "fits" not in memory:
        return f"{total} per GPU. Whether that fits: give --gpu, or --gpu-memory."
    usable = f"{format_bytes(memory['usable'])} of one GPU (a tenth is left to runtime and buffers)"
    if memory["fits"]:
        return f"Fits: {total} of {usable}."
    parts = ("weights", "gathered_weights", "gradients", "optimizer", "activations")
    largest = max(parts, key=lambda name: int(memory[name]))
    lines = [
        f"Does not fit: {total} of {usable}; most of it is {largest.replace('_', ' ')},"
        f" {format_bytes(memory[largest])}."
    ]
    if memory["changes"]:
        flags = " ".join(f"--set {change['set']}" for change in memory["changes"])
        costs = ", ".join(change["cost"] for change in memory["changes"])
        after = format_bytes(memory["total_with_changes"])
        lines.append(f"Fits with {flags}: {after} (costs: {costs}).")
    else:
        lines.append("No setting that leaves the result as it is makes it fit on so many GPUs.")
    if memory["gpus_that_fit_unchanged"]:
        lines.append(f"Fits unchanged on {memory['gpus_that_fit_unchanged']} GPUs.")
    return "\n".join(lines)
