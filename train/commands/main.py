"""`vchat-train`: the commands of training. Heavy imports wait until a command runs."""

from __future__ import annotations

import click

from vchat.base.cli import LazyGroup, run_command

group = LazyGroup(
    "vchat-train",
    help="Train a model on shards, and measure it.",
    lazy={
        "run": (
            "vchat.train.commands.run:run",
            "Train, or go on with a run that was interrupted.",
        ),
        "plan": ("vchat.train.commands.plan:plan", "Print what a run will do and need."),
        "eval": (
            "vchat.train.commands.eval:command",
            "Answer an evaluation file and score it.",
        ),
        "report": ("vchat.train.commands.report:report", "Draw the curves of a run as one page."),
        "heldout": ("vchat.train.commands.heldout:heldout", "Measure the held-out loss by source."),
        "export": (
            "vchat.train.commands.export:export",
            "Write a checkpoint as a Hugging Face folder.",
        ),
        "where": ("vchat.train.commands.where:where", "Name the samples of a step, or reverse."),
        "import-checkpoint": (
            "vchat.train.commands.import_checkpoint:command",
            "Turn a model of the published code into ours.",
        ),
        "import-tower": (
            "vchat.train.commands.import_tower:command",
            "Take a vision tower out of a model.",
        ),
    },
    # The deepspeed launcher puts --local_rank=N before the command; LOCAL_RANK says the same.
    params=[click.Option(["--local_rank"], type=int, hidden=True, expose_value=False)],
)


def main() -> None:
    """The console script `vchat-train`."""
    run_command(group)
