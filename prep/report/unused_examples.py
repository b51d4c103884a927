"""Examples of the records that a plan leaves out: which they are, and what was found about each.

A plan knows records by number; the first few of every reason are looked up in the staged files, so
that a report can name them. Costs one row group of a staged file per example, whatever the size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xxhash

from vchat.prep.convert.convert import StagedSource
from vchat.prep.convert.staged import read_rows
from vchat.prep.plan.blend import STATUSES, USED, Hashes, RecordColumns, SourceBlend
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
    """Return examples for every source and every reason that its blend has; arguments as there."""
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
    shown = []
    for columns, one in zip(sources, blends, strict=True):
        is_eval = np.zeros(len(columns.order), dtype=np.bool_)
        is_eval[one.record_numbers[np.repeat(one.is_eval, np.diff(one.starts))]] = True
        shown.append(columns.images[np.repeat(is_eval, columns.num_images)])
    return np.unique(np.concatenate(shown))


def _read_example_rows(
    staged: StagedSource, blend: SourceBlend, status: int
) -> list[dict[str, Any]]:
    numbers = np.flatnonzero(blend.status == status)[:EXAMPLES_PER_REASON]
    return read_rows(staged.path, numbers.tolist(), columns=("key", "image_keys"))


def _first_held_out(held_out: Hashes, keys: Sequence[str]) -> str:
    hashes = np.array([xxhash.xxh3_64_intdigest(key.encode()) for key in keys], dtype=np.uint64)
    return keys[int(np.isin(hashes, held_out).argmax())]
