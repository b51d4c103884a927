"""`vchat-prep`: raw data sets to shards."""

from __future__ import annotations

from vchat.base.cli import LazyGroup, run_command

group = LazyGroup(
    name="vchat-prep",
    help="Make training shards of image-text data sets.",
    lazy={
        "build": ("vchat.prep.commands.build:command", "Convert data sets into a shard set."),
        "plan": (
            "vchat.prep.commands.plan:command",
            "Convert data sets and plan their shards, for `build --task I/N`.",
        ),
        "finish": (
            "vchat.prep.commands.finish:command",
            "Check that the tasks of a plan are done, and publish the shards.",
        ),
        "sources": (
            "vchat.prep.commands.sources:command",
            "List the data sets: what to download, and where to put it.",
        ),
        "doctor": (
            "vchat.prep.commands.doctor:command",
            "Say which data sets are there, what is missing, what will be lost.",
        ),
        "retokenize": (
            "vchat.prep.commands.retokenize:command",
            "Make a shard set for another decoder, without the sources.",
        ),
        "sample-data": (
            "vchat.prep.commands.sample_data:command",
            "Draw a small world in the formats of all data sets.",
        ),
    },
)


def main() -> None:
    """Run the command line."""
    run_command(group)


if __name__ == "__main__":
    main()
