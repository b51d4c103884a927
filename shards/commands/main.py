"""`vchat-shards`: look into a finished shard set. Heavy imports wait until a command runs."""

from __future__ import annotations

from vchat.base.cli import LazyGroup, run_command

group = LazyGroup(
    "vchat-shards",
    help="Look into a finished shard set: what is in it, is it intact, what does the model read.",
    lazy={
        "inspect": (
            "vchat.shards.commands.inspect:command",
            "Print counts per source and split, and whether all files are there.",
        ),
        "show": (
            "vchat.shards.commands.show:command",
            "Print one dialogue exactly as the model reads it.",
        ),
        "html": (
            "vchat.shards.commands.html:command",
            "Write a page of dialogues with their images.",
        ),
        "verify": (
            "vchat.shards.commands.verify:command",
            "Read everything and list each defect.",
        ),
        "plan": (
            "vchat.shards.commands.plan:command",
            "Print what an epoch over shard sets will be.",
        ),
    },
)


def main() -> None:
    """Run the console script `vchat-shards`."""
    run_command(group)
