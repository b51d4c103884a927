"""Report what became of every row and record of a build: report.json and report.html.

The conservation law: (a) rows of a source = records + rejected rows; (b) records = used exactly
once + rejected later. Question/answer pairs are counted beside both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vchat.base.files import write_atomically
from vchat.base.page import load_page
from vchat.prep.convert.convert import StagedSource
from vchat.prep.plan.plan import BuildPlan
from vchat.prep.raw.identity import KINDS
from vchat.prep.raw.rejected import Rejections
from vchat.prep.report.listings import (
    list_identities,
    list_marks,
    list_rejections,
    list_repairs,
)
from vchat.prep.report.shard_statistics import compute_histograms, count_images, summarize_blend
from vchat.prep.report.unused_examples import Examples
from vchat.prep.tasks.record_counts import RecordCounts
from vchat.shards.format.publish import FinishedShard


def count_records(
    plan: BuildPlan, results: Sequence[RecordCounts], *, unused_examples: Mapping[str, Examples]
) -> RecordCounts:
    """Return what became of all records: left out by the plan, used and rejected by the tasks.

    Args:
        plan: The executed plan.
        results: Of its tasks, in the order of the shards.
        unused_examples: Source -> examples of what the plan leaves out.
    """
    total = RecordCounts()
    for name, examples in unused_examples.items():
        unused = Rejections(examples={reason: list(some) for reason, some in examples.items()})
        unused.counts.update(plan.unused[name])
        unused.pairs.update(plan.unused_pairs[name])
        total.rejected[name] = unused
    for result in results:
        total.merge(result)
    return total


def make_report(
    staged: Sequence[StagedSource],
    counts: RecordCounts,
    shards: Sequence[FinishedShard],
    *,
    plan_digest: str,
    manifest: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the report: per source what was read, used and rejected; and what the shards hold.

    Args:
        staged: The converted sources.
        counts: What became of all records (`count_records`).
        shards: All shards of the set.
        plan_digest: Of the executed plan.
        manifest: Of the set, for its recipe and licences.
    """
    rows = pa.concat_tables([shard.rows for shard in shards])
    return {
        "plan": plan_digest,
        "sources": {one.source: _source_report(one, counts) for one in staged},
        "shards": {
            "shards": len(shards),
            "samples": rows.num_rows,
            "bytes": sum(shard.size_bytes for shard in shards),
            "split_dialogues": counts.split_dialogues,
            "rounds": pc.sum(rows["num_rounds"]).as_py(),
            **count_images(rows),
        },
        "blend": summarize_blend(rows, choices=manifest["recipe"]["source"]),
        "histograms": compute_histograms(rows),
        "licences": dict(manifest["licences"]),
    }


def _source_report(staged: StagedSource, counts: RecordCounts) -> dict[str, Any]:
    return {
        "converted": staged.tally,
        "rejected_later": counts.rejected.get(staged.source, Rejections()).as_json(),
        "used_records": counts.used_records.get(staged.source, 0),
        "used_pairs": counts.used_pairs.get(staged.source, 0),
    }


def write_report(found: Mapping[str, Any], out: Path) -> None:
    """Write report.json and report.html into the shard set's folder."""
    page = load_page(Path(__file__).with_name("report.html")).render(
        report=found,
        rejections=list_rejections(found),
        repairs=list_repairs(found),
        marks=list_marks(found),
        identities=list_identities(found),
        kinds_of_key=KINDS,
    )
    with write_atomically(out / "report.json") as file:
        file.write(json.dumps(found, indent=1).encode())
    with write_atomically(out / "report.html") as file:
        file.write(page.encode())
