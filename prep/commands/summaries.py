"""What `build`, `plan` and `finish` print: a plan before it is executed, a shard set after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vchat.base.terminal_text import echo

if TYPE_CHECKING:
    from vchat.prep.pipeline.finish import BuildResult
    from vchat.prep.pipeline.planning import PlannedBuild


def print_plan(build: PlannedBuild) -> None:
    """Print the shards of each split, the row counts of each data set, and the plan's digest."""
    plan = build.plan
    for split in dict.fromkeys(shard.split for shard in plan.shards):
        shards = [shard for shard in plan.shards if shard.split == split]
        dialogues = sum(shard.end - shard.start for shard in shards)
        size = sum(shard.stored_bytes for shard in shards) / 1e6
        echo(
            f"{split}: {len(shards)} shards, about {size:.1f} MB, {dialogues} dialogues,"
            f" {sum(shard.records for shard in shards)} records,"
            f" {sum(shard.images for shard in shards)} images"
        )
    for staged in build.staged:
        tally, unused = staged.tally, plan.unused[staged.source]
        rejected = tally["rejected_rows"]["counts"]
        echo(
            f"{staged.source}: {tally['rows']} rows, {tally['records']} records,"
            f" rejected rows {_counts(rejected)}, left out by the plan {_counts(unused)}"
        )
    echo(f"plan {plan.digest}")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in counts.items()) or "none"


def print_summary(result: BuildResult) -> None:
    """Print what a shard set holds, what was repaired and what was rejected."""
    from vchat.prep.report.listings import (
        list_identities,
        list_marks,
        list_rejections,
        list_repairs,
    )

    if result.was_complete:
        echo(f"{result.out} holds this build already, complete")
    shards = result.report["shards"]
    echo(
        f"{shards['shards']} shards, {shards['samples']} samples, {shards['rounds']} rounds,"
        f" {shards['images']} images, {shards['bytes'] / 1e6:.1f} MB in {result.out}"
    )
    for name, one in result.report["sources"].items():
        echo(f"  {name}: {one['converted']['rows']} rows, {one['used_records']} records used")
    for name, rule, count in list_repairs(result.report):
        echo(f"  {name}: {count} image ids found by the rule {rule}")
    for name, mark, count in list_marks(result.report):
        echo(f"  {name}: {count} records are marked {mark}")
    for name, kind, count, compared in list_identities(result.report):
        if compared < count:
            echo(
                f"  {name}: {count - compared} images with {kind} keys were not compared by their"
                " bytes"
            )
    for line in list_rejections(result.report):
        echo(
            f"  {line['source']}: {line['count']} x {line['kind']} rejected,"
            f" {line['reason']} ({line['meaning']})"
        )
    echo(f"report: {result.out}/report.html")
