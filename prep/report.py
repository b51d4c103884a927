"""What became of every row and record of a build: report.json, report.html, and the check.

The conservation law: (a) rows of a source = records + rejected rows; (b) records = used exactly
once + rejected later. Question/answer pairs are tallied beside both.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from vchat.prep.convert import Staged
from vchat.prep.plan import BuildPlan
from vchat.prep.rejected import REASONS, Reasons
from vchat.prep.report_page import PAGE
from vchat.prep.task import ShardResult
from vchat.shards.files import written_whole
from vchat.shards.manifest import FinishedShard


def account(
    staged: Sequence[Staged],
    plan: BuildPlan,
    results: Sequence[ShardResult],
    shards: Sequence[FinishedShard],
) -> dict[str, Any]:
    """Return the report: per source what was read, used and rejected; and the shards' totals."""
    rows = pa.concat_tables([shard.rows for shard in shards])
    return {
        "plan": plan.digest,
        "sources": {one.source: _of_source(one, plan, results) for one in staged},
        "shards": {
            "shards": len(shards),
            "samples": rows.num_rows,
            "bytes": sum(shard.size_bytes for shard in shards),
            "split_dialogues": sum(result.split_dialogues for result in results),
            "rounds": sum(rows["num_rounds"].to_pylist()),
            **_repeated_images(rows),
        },
        "histograms": {
            "rounds per sample": _histogram(rows["num_rounds"].to_pylist()),
            "images per sample": _histogram(rows["num_images"].to_pylist()),
        },
    }


def _of_source(staged: Staged, plan: BuildPlan, results: Sequence[ShardResult]) -> dict[str, Any]:
    later = Reasons()
    later.counts.update(plan.unused[staged.source])
    later.pairs.update(plan.unused_pairs[staged.source])
    for result in results:
        if staged.source in result.rejected:
            later.merge(result.rejected[staged.source])
    return {
        "converted": staged.tally,
        "rejected_later": later.as_json(),
        "used_records": sum(result.used_records.get(staged.source, 0) for result in results),
        "used_pairs": sum(result.used_pairs.get(staged.source, 0) for result in results),
    }


def _repeated_images(rows: pa.Table) -> dict[str, int]:
    """Return how many images are stored, and the bytes of those that are stored again."""
    images = repeated_bytes = 0
    seen: set[int] = set()
    for members in rows["members"].to_pylist():
        for member in members:
            if member["name"][0].isdigit():
                images += 1
                repeated_bytes += member["size"] if member["xxh3"] in seen else 0
                seen.add(member["xxh3"])
    return {"images": images, "repeated_image_bytes": repeated_bytes}


def _histogram(values: Sequence[int]) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(values).items())}


def check(found: Mapping[str, Any]) -> None:
    """Check the conservation law of a whole build.

    Raises:
        ValueError: naming the source and both sides of the sum.
    """
    pairs = 0
    for name, one in found["sources"].items():
        converted, later = one["converted"], one["rejected_later"]
        records = one["used_records"] + sum(later["counts"].values())
        if records != converted["records"]:
            raise ValueError(f"{name}: {converted['records']} records, but {records} accounted for")
        accounted = one["used_pairs"] + sum(later["pairs"].values())
        if accounted != converted["record_pairs"]:
            raise ValueError(
                f"{name}: {converted['record_pairs']} pairs in records, but {accounted} accounted"
                " for"
            )
        pairs += one["used_pairs"]
    if pairs != found["shards"]["rounds"]:
        raise ValueError(f"{pairs} pairs used, but {found['shards']['rounds']} rounds are stored")


def rejections(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one line per source and reason: what was rejected, at which step, with examples."""
    lines = []
    for name, one in found["sources"].items():
        steps = (("row", one["converted"]["rejected_rows"]), ("record", one["rejected_later"]))
        for kind, reasons in steps:
            for reason, count in reasons["counts"].items():
                examples = reasons["examples"].get(reason, [])
                lines.append(_line(name, reason, count, kind=kind, examples=examples))
        for reason, count in one["converted"]["rejected_pairs"].items():
            if count:
                lines.append(_line(name, reason, count, kind="pair", examples=[]))
    return lines


def repairs(found: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Return `(source, rule, image ids that it found)` of every rule that was needed."""
    return [
        (name, rule, count)
        for name, one in found["sources"].items()
        for rule, count in one["converted"]["repairs"].items()
        if count
    ]


def marks(found: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Return `(source, mark, records that carry it)`."""
    return [
        (name, mark, count)
        for name, one in found["sources"].items()
        for mark, count in one["converted"].get("marks", {}).items()
    ]


def _line(name: str, reason: str, count: int, *, kind: str, examples: list[str]) -> dict[str, Any]:
    return {
        "source": name,
        "reason": reason,
        "count": count,
        "kind": kind,
        "meaning": REASONS[reason],
        "examples": examples,
    }


def write(found: Mapping[str, Any], out: Path) -> None:
    """Write report.json and report.html into the shard set's folder."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(PAGE).render(
        report=found, rejections=rejections(found), repairs=repairs(found), marks=marks(found)
    )
    with written_whole(out / "report.json") as file:
        file.write(json.dumps(found, indent=1).encode())
    with written_whole(out / "report.html") as file:
        file.write(page.encode())
