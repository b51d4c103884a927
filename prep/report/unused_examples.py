"""Find examples of the records that a plan leaves out: which they are, and why.

A plan knows records by number; the first few of every reason are looked up in the staged files, so
that a report can name them. Reads one row group of a staged file per example, whatever its size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vchat.prep.convert.convert import StagedSource
from vchat.prep.convert.staged import read_rows
from vchat.prep.plan.blend import (
    STATUSES,
    USED,
    Counts,
    Hashes,
    RecordColumns,
    SourceBlend,
    distinct_photographs,
)
from vchat.prep.raw.rejected import EXAMPLES_PER_REASON

Examples = dict[str, list[str]]
"""Reason code -> the first few records, as `key: what was found`."""


def find_unused_examples(
    staged: Sequence[StagedSource],
    sources: Sequence[RecordColumns],
    blends: Sequence[SourceBlend],
    *,
    limits: Sequence[int | None],
    max_images: int,
) -> dict[str, Examples]:
    """Return examples, by source, of every reason that its blend has.

    Args:
        staged: The converted sources.
        sources: Their columns.
        blends: What became of their records.
        limits: As in `blend_records`, as is `max_images`.
        max_images: The most images of one dialogue.
    """
    held_out = _held_out_images(sources, blends)
    found: dict[str, Examples] = {}
    for one, columns, blend, limit in zip(staged, sources, blends, limits, strict=True):
        examples = found.setdefault(one.source, {})
        for status in np.unique(blend.status[blend.status != USED]).tolist():
            reason = STATUSES[status]
            numbers = np.flatnonzero(blend.status == status)[:EXAMPLES_PER_REASON]
            rows = read_rows(one.path, numbers.tolist(), columns=("key", "image_keys"))
            shown = _first_held_out(columns, numbers, held_out)
            examples[reason] = [
                f"{row['key']}: {_describe(reason, row['image_keys'], first, limit, max_images)}"
                for row, first in zip(rows, shown, strict=True)
            ]
    return found


def _describe(
    reason: str, keys: Sequence[str], first_held_out: int, limit: int | None, max_images: int
) -> str:
    if reason == "too_many_images":
        return f"{len(keys)} images, the limit is {max_images}"
    if reason == "capped":
        return f"beyond the limit of {limit} records"
    return f"shows {keys[first_held_out]}"


def _held_out_images(sources: Sequence[RecordColumns], blends: Sequence[SourceBlend]) -> Hashes:
    """Return the sorted hashes of all images on the evaluation side."""
    eval_records = []
    for columns, blend in zip(sources, blends, strict=True):
        is_eval = np.zeros(len(columns.order), dtype=np.bool_)
        is_eval[blend.record_numbers[np.repeat(blend.is_eval, np.diff(blend.starts))]] = True
        eval_records.append(is_eval)
    return distinct_photographs(sources, eval_records)


def _first_held_out(columns: RecordColumns, numbers: Counts, held_out: Hashes) -> list[int]:
    """Return for each record of a number which of its images is the first that is held out.

    It is 0 for a record that shows none.
    """
    starts, ends = columns.image_starts[numbers], columns.image_starts[numbers + 1]
    shown = [np.isin(columns.photographs[a:b], held_out) for a, b in zip(starts, ends, strict=True)]
    return [int(one.argmax()) if len(one) else 0 for one in shown]
