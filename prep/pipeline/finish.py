"""The last step of a build: check that nothing is lost, write the report, publish the shard set.

In: the work folder, with the plan, a result file per shard, and what `Publication.write` left. Out:
index, tokenizer and report beside the shards, the manifest last. Nothing is read from the sources,
so any machine that sees the work folder can finish a build.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vchat.prep.pipeline.publication import Publication
from vchat.prep.pipeline.work_folder import clear_work_folder, remove_partial_outputs
from vchat.prep.plan.plan import BuildPlan, read_plan
from vchat.prep.report.report import count_records, make_report, write_report
from vchat.prep.tasks.output import MANIFEST, Output, check_same_build
from vchat.prep.tasks.record_counts import RecordCounts, check_conservation
from vchat.prep.tasks.result import read_results
from vchat.shards.format.publish import FinishedShard, publish
from vchat.shards.text.tokenizer import TextTokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """A finished shard set."""

    out: str
    """Folder or URL of the set."""

    report: dict[str, Any]
    was_complete: bool
    """Whether an earlier run had finished the same build."""


def finish_build(output: Output) -> BuildResult:
    """Publish the shard set of a plan whose tasks are all done.

    Raises:
        ValueError: Naming the shards that are not written, or what does not add up.
    """
    plan, publication = read_plan(output.work), Publication.read(output.work)
    results, finished = read_results(plan.shards, output=output)
    if not finished:
        raise ValueError("every record was rejected when it was decoded or tokenized")
    counts = count_records(plan, results, unused_examples=publication.unused_examples)
    _check_conservation(publication, counts, finished)
    report = make_report(
        publication.staged,
        counts,
        finished,
        plan_digest=plan.digest,
        manifest=publication.manifest,
    )
    remove_partial_outputs(output)
    write_report(report, output.folder)
    _publish(output, publication, finished)
    return BuildResult(out=str(output), report=report, was_complete=False)


def _check_conservation(
    publication: Publication, counts: RecordCounts, finished: Sequence[FinishedShard]
) -> None:
    check_conservation(
        counts,
        records={one.source: one.tally["records"] for one in publication.staged},
        pairs={one.source: one.tally["record_pairs"] for one in publication.staged},
        shards=finished,
    )


def _publish(output: Output, publication: Publication, finished: Sequence[FinishedShard]) -> None:
    """Write index, tokenizer and manifest, upload them, and clear the work folder."""
    publish(
        output.folder,
        manifest_without_shards=publication.manifest,
        shards=finished,
        tokenizer=TextTokenizer.load(output.work / "tokenizer"),
    )
    output.publish()
    clear_work_folder(output.work)
    for staged in publication.staged:
        staged.path.with_suffix(".arrow").unlink(missing_ok=True)


def read_same_build(output: Output, plan: BuildPlan) -> BuildResult:
    """Return what is published in a place.

    Raises:
        ValueError: It is not the set of this plan; names both.
    """
    manifest = json.loads(output.read(MANIFEST))
    check_same_build(output, manifest["digests"]["plan"], plan.digest)
    return read_published(output)


def read_published(output: Output) -> BuildResult:
    """Return what is published in a place, whatever its plan was."""
    report = json.loads(output.read("report.json"))
    return BuildResult(out=str(output), report=report, was_complete=True)
