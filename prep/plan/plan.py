"""Decide which dialogue goes into which shard, before anything heavy runs.

Input: columns of the staged records, their blends, and the settings that shape bytes. Output: a
`BuildPlan`: a table of one row per dialogue in the order in which they are stored, and the list of
shards, each a segment of that table. A pure function of its inputs, named by its digest; whatever
executes it gives the same bytes.

Letters in shapes: N records of a source, D dialogues.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vchat.base.arrays import offsets_from_counts, segment_sums
from vchat.base.files import write_atomically
from vchat.prep.plan.blend import STATUSES, USED, RecordColumns, SourceBlend

PLAN_VERSION = 2
"""Raised whenever equal inputs would give another plan."""

PLAN_FILE = "plan.arrow"
_ROWS_AT_ONCE = 100_000
SPLITS = ("train", "eval")
SCHEMA = pa.schema(
    [("source", pa.dictionary(pa.int8(), pa.string())), ("rows", pa.list_(pa.int64()))]
)
"""`rows` are the numbers of the source's staged records, in the order of the dialogue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedShard:
    """One shard, which is one task. Counts are upper bounds: writing may reject records."""

    name: str
    """`train-000000`, without `.tar`."""

    split: str
    first_number: int
    """Number of its first sample within the set; dialogues that are split have numbers left."""

    start: int
    """Its first dialogue in the plan's table."""

    end: int
    records: int
    images: int
    stored_bytes: int
    """Estimated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPlan:
    """All decisions of a build."""

    digest: str
    """SHA-256 over the table and everything else that shapes the shards' bytes."""

    shards: tuple[PlannedShard, ...]
    table: pa.Table
    """`SCHEMA`, one row per dialogue."""

    unused: dict[str, dict[str, int]]
    """Source -> reason code -> number of records that are in no dialogue."""

    unused_pairs: dict[str, dict[str, int]]
    """The same for the question/answer pairs of these records."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dialogues:
    """Columns of all dialogues of all sources, each of D values."""

    source: NDArray[np.int16]
    number: NDArray[np.int64]
    """Within its source's blend."""

    is_eval: NDArray[np.bool_]
    storage_order: NDArray[np.uint64]
    rounds: NDArray[np.int32]
    images: NDArray[np.int32]
    records: NDArray[np.int32]
    stored_bytes: NDArray[np.int64]


def make_plan(
    sources: Sequence[RecordColumns],
    blends: Sequence[SourceBlend],
    *,
    shard_bytes: int,
    settings: Mapping[str, Any],
) -> BuildPlan:
    """Place every dialogue in a shard of about `shard_bytes`.

    Args:
        sources: Columns of all sources.
        blends: Of the same sources.
        shard_bytes: About how large a shard is.
        settings: Everything apart from the blend that shapes the shards' bytes, as JSON values.

    Raises:
        ValueError: There is no dialogue at all.
    """
    dialogues = _sort_dialogues(sources, blends)
    if not len(dialogues.storage_order):
        raise ValueError("no record is left to build shards of; see the reasons in the report")
    table = _dialogue_table(blends, dialogues)
    shards: list[PlannedShard] = []
    first_number = 0
    for split in SPLITS:
        mine = np.flatnonzero(dialogues.is_eval == (split == "eval"))
        shards += _cut_shards(
            dialogues, mine, split=split, shard_bytes=shard_bytes, first_number=first_number
        )
        first_number += int(dialogues.rounds[mine].sum())
    return BuildPlan(
        digest=_digest(table, shards, settings),
        shards=tuple(shards),
        table=table,
        unused={one.source: _count_unused(one.status) for one in blends},
        unused_pairs={
            one.source: _count_unused(one.status, weights=columns.num_rounds)
            for one, columns in zip(blends, sources, strict=True)
        },
    )


def _sort_dialogues(sources: Sequence[RecordColumns], blends: Sequence[SourceBlend]) -> _Dialogues:
    """Return all dialogues, train first, each side in hash order so that sources are mixed."""
    parts = [
        _dialogue_columns(number, source, blend)
        for number, (source, blend) in enumerate(zip(sources, blends, strict=True))
    ]

    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in _Dialogues.__dataclass_fields__
    }
    sort_keys = ("is_eval", "storage_order", "source", "number")
    order = np.lexsort([columns[name] for name in reversed(sort_keys)])
    return _Dialogues(**{name: column[order] for name, column in columns.items()})


def _dialogue_columns(number: int, source: RecordColumns, blend: SourceBlend) -> _Dialogues:
    records, starts = blend.record_numbers, blend.starts
    first = records[starts[:-1]]
    return _Dialogues(
        source=np.full(len(first), number, dtype=np.int16),
        number=np.arange(len(first), dtype=np.int64),
        is_eval=blend.is_eval,
        storage_order=source.storage_order[first],
        rounds=segment_sums(source.num_rounds[records], starts).astype(np.int32),
        images=segment_sums(source.num_images[records], starts).astype(np.int32),
        records=np.diff(starts).astype(np.int32),
        stored_bytes=segment_sums(source.stored_bytes[records], starts),
    )


def _dialogue_table(blends: Sequence[SourceBlend], dialogues: _Dialogues) -> pa.Table:
    """Return the table of `SCHEMA`: the records of each dialogue, gathered from the blends."""
    before = offsets_from_counts(len(one.record_numbers) for one in blends)
    starts = np.zeros(len(dialogues.source), dtype=np.int64)
    for number, one in enumerate(blends):
        mine = dialogues.source == number
        starts[mine] = before[number] + one.starts[dialogues.number[mine]]
    offsets = offsets_from_counts(dialogues.records)
    taken = np.repeat(starts - offsets[:-1], dialogues.records) + np.arange(offsets[-1])
    flat = np.concatenate([one.record_numbers for one in blends])[taken]
    names = pa.array([one.source for one in blends])
    source = pa.DictionaryArray.from_arrays(pa.array(dialogues.source.astype(np.int8)), names)
    return pa.Table.from_arrays(
        [source, pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(flat))],
        schema=SCHEMA,
    )


def _cut_shards(
    dialogues: _Dialogues,
    mine: NDArray[np.int64],
    *,
    split: str,
    shard_bytes: int,
    first_number: int,
) -> list[PlannedShard]:
    """Cut one side into shards of nearly equal estimated size, at most `shard_bytes` on average.

    Args:
        dialogues: Of all sides.
        mine: The dialogues of this side.
        split: The name of this side.
        shard_bytes: The largest average size.
        first_number: Number of its first sample within the set.
    """
    if not len(mine):
        return []
    sizes = dialogues.stored_bytes[mine]
    before = offsets_from_counts(sizes)[:-1]
    num_shards = int(-(-sizes.sum() // shard_bytes))
    shard = before * num_shards // max(1, int(sizes.sum()))
    edges = [*np.flatnonzero(np.diff(shard, prepend=-1)).tolist(), len(mine)]
    numbers = offsets_from_counts(dialogues.rounds[mine])
    return [
        PlannedShard(
            name=f"{split}-{number:06d}",
            split=split,
            first_number=first_number + int(numbers[start]),
            start=int(mine[0]) + start,
            end=int(mine[0]) + end,
            records=int(dialogues.records[mine[start:end]].sum()),
            images=int(dialogues.images[mine[start:end]].sum()),
            stored_bytes=int(sizes[start:end].sum()),
        )
        for number, (start, end) in enumerate(pairwise(edges))
    ]


def _count_unused(
    status: NDArray[np.int8], *, weights: NDArray[np.int64] | None = None
) -> dict[str, int]:
    counts = np.bincount(status, weights=weights, minlength=len(STATUSES))
    return {
        reason: int(counts[number])
        for number, reason in enumerate(STATUSES)
        if number != USED and counts[number]
    }


def _digest(table: pa.Table, shards: Sequence[PlannedShard], settings: Mapping[str, Any]) -> str:
    described = {
        "plan_version": PLAN_VERSION,
        "shards": [asdict(shard) for shard in shards],
        "settings": settings,
    }
    hasher = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for start in range(0, table.num_rows, _ROWS_AT_ONCE):
        names = table["source"].slice(start, _ROWS_AT_ONCE).cast(pa.string()).to_pylist()
        hasher.update(("," * bool(start) + ",".join(names)).encode())
    lists = table["rows"].combine_chunks()
    hasher.update(np.asarray(lists.offsets).tobytes())
    hasher.update(np.asarray(lists.values).tobytes())
    return hasher.hexdigest()


def write_plan(plan: BuildPlan, folder: Path) -> None:
    """Store a plan as an Arrow file; its list of shards is in the file's metadata."""
    described = {
        "digest": plan.digest,
        "shards": [asdict(shard) for shard in plan.shards],
        "unused": plan.unused,
        "unused_pairs": plan.unused_pairs,
    }
    table = plan.table.replace_schema_metadata({"plan": json.dumps(described)})
    with (
        write_atomically(folder / PLAN_FILE) as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        writer.write_table(table, max_chunksize=_ROWS_AT_ONCE)


def read_plan(folder: Path) -> BuildPlan:
    """Return what `write_plan` stored; its table is mapped into memory and read as it is used."""
    table = pa.ipc.open_file(pa.memory_map(str(folder / PLAN_FILE))).read_all()
    described = json.loads(table.schema.metadata[b"plan"])
    shards = tuple(PlannedShard(**shard) for shard in described.pop("shards"))
    return BuildPlan(table=table.replace_schema_metadata(), shards=shards, **described)
