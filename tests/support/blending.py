"""Columns of made-up records, and blends of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vchat.prep.convert.images import ImagePolicy
from vchat.prep.plan.blend import (
    RecordColumns,
    SourceBlend,
    blend_records,
    compute_record_columns,
)

Records = Sequence[tuple[str, Sequence[str]]]
"""Key and image keys of each record."""

Digests = Mapping[str, int]
"""Image key -> number of its bytes; 0, or no entry, if they are unknown."""


def plan_columns(records: Records, *, digests: Digests | None = None) -> dict[str, list[Any]]:
    """Return what `read_plan_columns` yields of such records."""
    numbers = digests or {}
    return {
        "key": [key for key, _ in records],
        "system": [None] * len(records),
        "num_rounds": [1 + len(key) % 3 for key, _ in records],
        "text_bytes": [100 + len(key) for key, _ in records],
        "image_keys": [list(images) for _, images in records],
        "image_digests": [[numbers.get(key, 0) for key in images] for _, images in records],
        "image_sizes": [[640, 480] * len(images) for _, images in records],
        "image_bytes": [80_000 * len(images) for _, images in records],
    }


def blend_sources(
    sources: Mapping[str, Records],
    *,
    concatenate: int = 3,
    limit: int | None = None,
    max_images: int = 3,
    eval_fraction: float = 0.2,
    seed: int = 0,
) -> tuple[list[RecordColumns], list[SourceBlend]]:
    """Blend the records of each source; return columns and blends."""
    columns = [
        compute_record_columns(name, [plan_columns(records)], seed=seed, policy=ImagePolicy())
        for name, records in sources.items()
    ]
    blends = blend_records(
        columns,
        concatenate=[concatenate] * len(columns),
        limits=[limit] * len(columns),
        max_images=max_images,
        eval_fraction=eval_fraction,
    )
    return columns, blends


def one_photo_records(count: int) -> list[tuple[str, list[str]]]:
    """Return records `llava/0`, `llava/1`, ... that show one photograph each."""
    return [(f"llava/{i}", [f"coco:{i}"]) for i in range(count)]
