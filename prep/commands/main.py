"""`vchat-prep`: raw data sets to shards."""

from __future__ import annotations

from vchat.shards.command import LazyGroup, run

group = LazyGroup(
    name="vchat-prep",
    help="Make training shards of image-text data sets.",
    lazy={
        "build": ("vchat.prep.build_command:command", "Convert data sets into a shard set."),
        "plan": (
            "vchat.prep.array_commands:plan",
            "Convert data sets and plan their shards, for `build --task I/N`.",
        ),
        "finish": (
            "vchat.prep.array_commands:finish",
            "Check that the tasks of a plan are done, and publish the shards.",
        ),
        "sources": (
            "vchat.prep.sources_command:command",
            "List the data sets: what to download, and where to put it.",
        ),
        "doctor": (
            "vchat.prep.doctor_command:command",
            "Say which data sets are there, what is missing, what will be lost.",
        ),
        "retokenize": (
            "vchat.prep.retokenize_command:command",
            "Make a shard set for another decoder, without the sources.",
        ),
        "sample-data": (
            "vchat.prep.sample_data_command:command",
            "Draw a small world in the formats of all data sets.",
        ),
    },
)


def main() -> None:
    """Run the command line."""
    run(group)


if __name__ == "__main__":
    main()
