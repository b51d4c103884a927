"""`vchat-train heldout`: the loss of a checkpoint over a split, by source, on all ranks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vchat.base.imports import pause_collection
from vchat.base.terminal_text import cell, echo
from vchat.train.chat.commands.options import CHECKPOINT
from vchat.train.commands.options import AS_JSON

if TYPE_CHECKING:
    from vchat.train.run.heldout import HeldOutLoss


@click.command("heldout")
@CHECKPOINT
@click.option("--shards", help="Another shard set of the same tokenizer and template.")
@click.option("--split", help="Another split than the run's data.eval_split.")
@AS_JSON
def heldout(checkpoint: Path, shards: str | None, split: str | None, as_json: bool) -> None:
    """Measure the held-out loss of a checkpoint, in all and by source: each sample exactly once.

    Alone this is one process; under torchrun or deepspeed the samples are shared out.
    """
    from vchat.train.engine.processes import disconnect_processes, prepare_environment

    prepare_environment()
    with pause_collection():
        from vchat.train.run.heldout_checkpoint import measure_checkpoint

    found = measure_checkpoint(checkpoint, shards=shards, split=split)
    if found is not None and as_json:
        echo(json.dumps(json_facts(found), indent=1))
    elif found is not None:
        print_losses(found, title=str(checkpoint))
    disconnect_processes()


def json_facts(found: HeldOutLoss) -> dict[str, object]:
    """What was measured, as JSON values."""
    tokens = found.source_losses.num_tokens()
    return {
        "samples": found.num_samples,
        "supervised_tokens": sum(tokens.values()),
        "loss": found.loss,
        "sources": {
            name: {"supervised_tokens": tokens[name], "loss": loss}
            for name, loss in found.source_losses.means().items()
        },
    }


def print_losses(found: HeldOutLoss, *, title: str) -> None:
    """Print the loss by source and in all, with its perplexity."""
    import math

    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=cell(title), title_justify="left", box=box.SIMPLE, pad_edge=False)
    table.add_column("source")
    for name in ("supervised tokens", "loss", "perplexity"):
        table.add_column(name, justify="right")
    tokens, means = found.source_losses.num_tokens(), found.source_losses.means()
    lines = [(name, tokens[name], means[name]) for name in sorted(means)]
    for i, (name, count, loss) in enumerate([*lines, ("all", sum(tokens.values()), found.loss)]):
        last = i == len(lines) - 1
        table.add_row(
            cell(name), f"{count:,}", f"{loss:.4f}", f"{math.exp(loss):.3f}", end_section=last
        )
    Console(file=sys.stdout).print(table)
    echo(f"{found.num_samples:,} samples, each once")
