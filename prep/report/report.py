"""What became of every row and record of a build: report.json, report.html, and the check.

The conservation law: (a) rows of a source = records + rejected rows; (b) records = used exactly
once + rejected later. Question/answer pairs are tallied beside both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vchat.base.files import write_atomically
from vchat.base.page import load_page
from vchat.prep.convert.convert import StagedSource
from vchat.prep.plan.plan import BuildPlan
from vchat.prep.raw.rejected import REASONS, Rejections
from vchat.prep.tasks.task import ShardResult
from vchat.shards.format.publish import FinishedShard

_MAX_SIDE = 2**31 - 1


def make_report(
    staged: Sequence[StagedSource],
    plan: BuildPlan,
    results: Sequence[ShardResult],
    shards: Sequence[FinishedShard],
    *,
    unused_examples: Mapping[str, Mapping[str, list[str]]],
    manifest: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the report: per source what was read, used and rejected; and what the shards hold.

    Args:
        unused_examples: examples of what the plan leaves out, by source and reason.
        manifest: of the set, for its recipe and licences.
    """
    rows = pa.concat_tables([shard.rows for shard in shards])
    return {
        "plan": plan.digest,
        "sources": {
            one.source: _source_report(
                one, plan, results, unused_examples=unused_examples[one.source]
            )
            for one in staged
        },
        "shards": {
            "shards": len(shards),
            "samples": rows.num_rows,
            "bytes": sum(shard.size_bytes for shard in shards),
            "split_dialogues": sum(result.split_dialogues for result in results),
            "rounds": pc.sum(rows["num_rounds"]).as_py(),
            **_image_totals(rows),
        },
        "blend": _blend_lines(rows, choices=manifest["recipe"]["source"]),
        "histograms": _histograms(rows),
        "licences": dict(manifest["licences"]),
    }


def _histograms(rows: pa.Table) -> dict[str, dict[str, int]]:
    sides = pc.list_flatten(rows["image_original_sizes"]).to_numpy().reshape(-1, 2)
    return {
        "rounds per sample": _histogram(rows["num_rounds"].to_numpy()),
        "images per sample": _histogram(rows["num_images"].to_numpy()),
        "records per sample": _histogram(rows["num_records"].to_numpy()),
        "text tokens per sample": _doubling_histogram(rows["text_tokens"].to_numpy()),
        "supervised tokens per sample": _doubling_histogram(rows["supervised_tokens"].to_numpy()),
        "shorter side of an original, pixels": _doubling_histogram(
            sides.min(axis=1, initial=_MAX_SIDE)
        ),
    }


def _blend_lines(rows: pa.Table, *, choices: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one line per source and split: what of it is in the shards, and how it was joined."""
    named = {choice["name"]: choice for choice in choices}
    keys = ["source", "split"]
    flat = rows.set_column(
        rows.column_names.index("source"), "source", rows["source"].cast(pa.string())
    )
    columns = ("num_records", "num_rounds", "num_images", "text_tokens", "supervised_tokens")
    sums = [(name, "sum") for name in columns]
    table = flat.group_by(keys).aggregate([("key", "count"), *sums])
    lines = []
    for line in table.sort_by([("source", "ascending"), ("split", "descending")]).to_pylist():
        choice = named.get(line["source"], {})
        lines.append(
            {
                "source": line["source"],
                "split": line["split"],
                "concatenate": choice.get("concatenate", 1),
                "limit": choice.get("limit"),
                "samples": line["key_count"],
                **{name.removeprefix("num_"): line[f"{name}_sum"] for name in columns},
            }
        )
    return lines


def _source_report(
    staged: StagedSource,
    plan: BuildPlan,
    results: Sequence[ShardResult],
    *,
    unused_examples: Mapping[str, list[str]],
) -> dict[str, Any]:
    later = Rejections(examples={reason: list(some) for reason, some in unused_examples.items()})
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


def _image_totals(rows: pa.Table) -> dict[str, int]:
    """Return how many images are stored, and the bytes of those that are stored again."""
    members = pc.list_flatten(rows["members"]).combine_chunks()
    images = members.filter(pc.match_substring_regex(pc.struct_field(members, "name"), "^[0-9]"))
    sizes = pc.struct_field(images, "size").to_numpy(zero_copy_only=False)
    _, first = np.unique(
        pc.struct_field(images, "xxh3").to_numpy(zero_copy_only=False), return_index=True
    )
    repeated_bytes = int(sizes.sum()) - int(sizes[first].sum())
    return {"images": len(images), "repeated_image_bytes": repeated_bytes}


def _histogram(values: NDArray[Any]) -> dict[str, int]:
    found, counts = np.unique(values, return_counts=True)
    return {str(value): int(count) for value, count in zip(found, counts, strict=True)}


def _doubling_histogram(values: NDArray[Any]) -> dict[str, int]:
    """Return counts between powers of two, `128-255`, from the least to the most that there is."""
    exponents = np.frexp(values.astype(np.float64))[1] - 1
    found, counts = np.unique(np.maximum(exponents, 0), return_counts=True)
    of = dict(zip(found.tolist(), counts.tolist(), strict=True))
    span = range(min(of), max(of) + 1) if of else range(0)
    return {f"{2**n}-{2 ** (n + 1) - 1}": of.get(n, 0) for n in span}


def check_conservation(found: Mapping[str, Any]) -> None:
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


def list_rejections(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one line per source and reason: what was rejected, at which step, with examples."""
    lines = []
    for name, one in found["sources"].items():
        steps = (("row", one["converted"]["rejected_rows"]), ("record", one["rejected_later"]))
        for kind, reasons in steps:
            for reason, count in reasons["counts"].items():
                examples = reasons["examples"].get(reason, [])
                lines.append(_rejection_line(name, reason, count, kind=kind, examples=examples))
        for reason, count in one["converted"]["rejected_pairs"].items():
            if count:
                examples = one["converted"]["pair_examples"].get(reason, [])
                lines.append(_rejection_line(name, reason, count, kind="pair", examples=examples))
    return lines


def list_repairs(found: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Return `(source, rule, image ids that it found)` of every rule that was needed."""
    return [
        (name, rule, count)
        for name, one in found["sources"].items()
        for rule, count in one["converted"]["repairs"].items()
        if count
    ]


def list_marks(found: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Return `(source, mark, records that carry it)`."""
    return [
        (name, mark, count)
        for name, one in found["sources"].items()
        for mark, count in one["converted"].get("marks", {}).items()
    ]


def _rejection_line(
    name: str, reason: str, count: int, *, kind: str, examples: list[str]
) -> dict[str, Any]:
    return {
        "source": name,
        "reason": reason,
        "count": count,
        "kind": kind,
        "meaning": REASONS[reason],
        "examples": examples,
    }


def write_report(found: Mapping[str, Any], out: Path) -> None:
    """Write report.json and report.html into the shard set's folder."""
    page = load_page(Path(__file__).with_name("report.html")).render(
        report=found,
        rejections=list_rejections(found),
        repairs=list_repairs(found),
        marks=list_marks(found),
    )
    with write_atomically(out / "report.json") as file:
        file.write(json.dumps(found, indent=1).encode())
    with write_atomically(out / "report.html") as file:
        file.write(page.encode())
