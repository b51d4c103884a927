"""Find examples of the records that a plan leaves out: which they are, and why.

A plan knows records by number; the first few of every reason are looked up in the staged files, so
that a report can name them. Reads one row group of a staged file per example, whatever its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vchat.prep.convert.convert import StagedSource
from vchat.prep.convert.staged import read_rows
from vchat.prep.plan.blend import (
    STATUSES,
    USED,
    Hashes,
    RecordColumns,
    SourceBlend,
    distinct_images,
    hash_image_keys,
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
    for one, blend, limit in zip(staged, blends, limits, strict=True):
        examples = found.setdefault(one.source, {})
        for number in np.unique(blend.status[blend.status != USED]).tolist():
            reason = STATUSES[number]
            examples[reason] = [
                f"{row['key']}: {_describe(reason, row['image_keys'], held_out, limit, max_images)}"
                for row in _read_example_rows(one, blend, number)
            ]
    return found


def _describe(
    reason: str, keys: Sequence[str], held_out: Hashes, limit: int | None, max_images: int
) -> str:
    if reason == "too_many_images":
        return f"{len(keys)} images, the limit is {max_images}"
    if reason == "capped":
        return f"beyond the limit of {limit} records"
    return f"shows {_first_held_out(held_out, keys)}"


def _held_out_images(sources: Sequence[RecordColumns], blends: Sequence[SourceBlend]) -> Hashes:
    """Return the sorted hashes of all images on the evaluation side."""
    eval_records = []
    for columns, blend in zip(sources, blends, strict=True):
        is_eval = np.zeros(len(columns.order), dtype=np.bool_)
        is_eval[blend.record_numbers[np.repeat(blend.is_eval, np.diff(blend.starts))]] = True
        eval_records.append(is_eval)
    return distinct_images(sources, eval_records)


def _read_example_rows(
    staged: StagedSource, blend: SourceBlend, status: int
) -> list[dict[str, Any]]:
    numbers = np.flatnonzero(blend.status == status)[:EXAMPLES_PER_REASON]
    return read_rows(staged.path, numbers.tolist(), columns=("key", "image_keys"))


def _first_held_out(held_out: Hashes, keys: Sequence[str]) -> str:
    return keys[int(np.isin(hash_image_keys(keys), held_out).argmax())]
