"""A finished task: its shard in place, and a result file whose presence means that it is done."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vchat.base.files import write_atomically
from vchat.base.safe_paths import join_inside
from vchat.prep.plan.plan import PlannedShard
from vchat.prep.tasks.output import Output
from vchat.prep.tasks.record_counts import RecordCounts
from vchat.shards.format.index import ROW_SCHEMA
from vchat.shards.format.publish import FinishedShard, describe_shard
from vchat.shards.format.sample import Sample
from vchat.shards.format.writer import write_shard

RESULTS_FOLDER = "results"

_NAMED = 5
"""How many shards an error names."""


def write_task_shard(
    shard: PlannedShard,
    samples: Iterable[Sample],
    *,
    counts: RecordCounts,
    output: Output,
) -> None:
    """Write a task's shard, bring it to its place, and store what `read_result` reads.

    Args:
        counts: Complete when `samples` is exhausted.
    """
    path = join_inside(output.folder, f"{shard.name}.tar")
    rows = write_shard(path, samples, first_number=shard.first_number)
    finished = None
    if rows.num_rows:
        finished = describe_shard(path, split=shard.split, rows=rows)
        output.put(path.name, sha256=finished.sha256)
    else:
        path.unlink()
    _write_result(output.work, shard, rows=rows, finished=finished, counts=counts)


def _write_result(
    work: Path,
    shard: PlannedShard,
    *,
    rows: pa.Table,
    finished: FinishedShard | None,
    counts: RecordCounts,
) -> None:
    """Store the index rows, then the result."""
    folder = work / RESULTS_FOLDER
    with write_atomically(folder / f"{shard.name}.parquet") as file:
        pq.write_table(rows, file)
    described = counts.as_json() | {
        "bytes": 0 if finished is None else finished.size_bytes,
        "sha256": "" if finished is None else finished.sha256,
    }
    with write_atomically(folder / f"{shard.name}.json") as file:
        file.write(json.dumps(described).encode())


def read_result(
    shard: PlannedShard, *, output: Output
) -> tuple[RecordCounts, FinishedShard | None] | None:
    """Return what a finished task left, or None if it is not done.

    The shard is None if none of its records could be used.
    """
    file = output.work / RESULTS_FOLDER / f"{shard.name}.json"
    if not file.exists():
        return None
    found = json.loads(file.read_text(encoding="utf-8"))
    name, size_bytes, sha256 = f"{shard.name}.tar", found.pop("bytes"), found.pop("sha256")
    if size_bytes and not output.has(name, size_bytes):
        return None
    counts = RecordCounts.from_json(found)
    if not size_bytes:
        return counts, None
    rows = pq.read_table(file.with_suffix(".parquet")).cast(ROW_SCHEMA)
    finished = FinishedShard(
        name=name, split=shard.split, size_bytes=size_bytes, sha256=sha256, rows=rows
    )
    return counts, finished


def find_missing(
    shards: Sequence[PlannedShard], numbers: Iterable[int], *, output: Output
) -> list[int]:
    """Return those of the given shard numbers whose task is not done."""
    return [number for number in numbers if read_result(shards[number], output=output) is None]


def read_results(
    shards: Sequence[PlannedShard], *, output: Output
) -> tuple[list[RecordCounts], list[FinishedShard]]:
    """Return what all tasks counted, and the shards that they wrote.

    Raises:
        ValueError: Naming shards that are not written.
    """
    counts, finished, missing = [], [], []
    for shard in shards:
        found = read_result(shard, output=output)
        if found is None:
            missing.append(f"{shard.name}.tar")
            continue
        counts.append(found[0])
        if found[1] is not None:
            finished.append(found[1])
    if missing:
        names = ", ".join(missing[:_NAMED]) + (", .." if len(missing) > _NAMED else "")
        raise ValueError(
            f"{len(missing)} of {len(shards)} shards are not in {output}: {names}; run the build,"
            " its task, or retokenize again: it writes the missing ones"
        )
    return counts, finished
