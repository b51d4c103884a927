"""`vchat-train`: the commands of training. Heavy imports wait until a command runs."""

from __future__ import annotations

import click
from vchat.shards import command
from vchat.shards.command import LazyGroup

group = LazyGroup(
    "vchat-train",
    help="Train a model on shards, and measure it.",
    lazy={
        "run": ("vchat.train.commands:run", "Train, or go on with a run that was interrupted."),
        "plan": ("vchat.train.plan_command:plan", "Print what a run will do and need."),
        "eval": ("vchat.train.evaluate:command", "Answer an evaluation file and score it."),
        "report": ("vchat.train.commands:report", "Draw the curves of a run as one page."),
        "heldout": ("vchat.train.heldout_command:command", "Measure the held-out loss by source."),
        "export": ("vchat.train.commands:export", "Write a checkpoint as a Hugging Face folder."),
        "where": ("vchat.train.commands:where", "Name the samples of a step, or reverse."),
        "import-checkpoint": (
            "vchat.train.import_checkpoint:command",
            "Turn a model of the published code into ours.",
        ),
        "import-tower": ("vchat.train.import_tower:command", "Take a vision tower out of a model."),
    },
    # The deepspeed launcher puts --local_rank=N before the command; LOCAL_RANK says the same.
    params=[click.Option(["--local_rank"], type=int, hidden=True, expose_value=False)],
)


def main() -> None:
    """The console script `vchat-train`."""
    command.run(group)
