"""Turn records into dialogues: which are used, on which side of the split, which are joined.

Everything here is arithmetic on columns of numbers; no text and no image is read. Every draw is a
keyed hash of a record's key, so the result depends on the seed and on the set of records, never on
the order of files or a library's random stream. Every record is used exactly once or has a status
that says why not.

Letters in shapes: N records of a source, M images of all of them, D dialogues.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from vchat.base.arrays import offsets_from_counts, segment_sums
from vchat.prep.convert.images import ImagePolicy
from vchat.prep.convert.staged import PLAN_COLUMNS
from vchat.prep.plan.estimate import estimate_bytes
from vchat.prep.raw.keyed_hash import HASH_RANGE, keyed_hash

USED = 0
STATUSES = ("", "too_many_images", "capped", "held_out_image")
"""Reason code of each status number; 0 means used."""

Bools = NDArray[np.bool_]
Hashes = NDArray[np.uint64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordColumns:
    """What blending needs to know of one source's records, in staged order."""

    source: str
    side: Hashes
    """uint64[N], keyed hash of the first image's key (text-only: of the record's key)."""

    order: Hashes
    """uint64[N], keyed hash of the record's key: the order in which records are taken."""

    group: Hashes
    """uint64[N], another one: draws the size of the group that starts with the record."""

    storage_order: Hashes
    """uint64[N], another one: the order in which dialogues are stored, by their first record."""

    system: Hashes
    """uint64[N], hash of the record's own system text, 0 for none; only equal ones are joined."""

    images: Hashes
    """uint64[M], hash of every image's key, record by record."""

    photographs: Hashes
    """uint64[M], equal for images that are the same picture: `images`, until
    `photographs.join_photographs` has compared the pictures of all sources by their bytes."""

    digests: Hashes
    """uint64[M], the beginning of the digest of every image's bytes; 0 where it is unknown."""

    image_starts: Counts
    """int64[N + 1], where each record's images start in `images`."""

    num_rounds: Counts
    """int64[N]."""

    stored_bytes: Counts
    """int64[N], estimated bytes of the record in a shard."""

    @property
    def num_images(self) -> Counts:
        """Images of each record, int64[N]."""
        return np.diff(self.image_starts)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceBlend:
    """Dialogues of one source, and what became of its records."""

    source: str
    status: NDArray[np.int8]
    """int8[N], index into `STATUSES`."""

    is_eval: Bools
    """bool[D]."""

    record_numbers: Counts
    """int64[used records], numbers of staged records, dialogue by dialogue."""

    starts: Counts
    """int64[D + 1], where each dialogue's records start in `record_numbers`."""


def compute_record_columns(
    source: str, batches: Iterable[dict[str, list[Any]]], *, seed: int, policy: ImagePolicy
) -> RecordColumns:
    """Return the columns of one source's records, as `staged.read_plan_columns` yields them.

    Memory: one batch, 60 bytes per record, and 16 per image.
    """
    parts = [_batch_columns(source, batch, seed=seed, policy=policy) for batch in batches]
    if not parts:
        nothing: dict[str, list[Any]] = {name: [] for name in PLAN_COLUMNS}
        return _batch_columns(source, nothing, seed=seed, policy=policy)
    names = (
        *("side", "order", "group", "storage_order", "system"),
        *("images", "digests", "num_rounds", "stored_bytes"),
    )
    counts = np.concatenate([part.num_images for part in parts])
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return RecordColumns(
        source=source,
        image_starts=offsets_from_counts(counts),
        photographs=columns["images"],
        **columns,
    )


def _batch_columns(
    source: str, batch: dict[str, list[Any]], *, seed: int, policy: ImagePolicy
) -> RecordColumns:
    keys, image_keys = batch["key"], batch["image_keys"]
    sides = [images[0] if images else key for key, images in zip(keys, image_keys, strict=True)]
    images = hash_image_keys(key for some in image_keys for key in some)
    return RecordColumns(
        source=source,
        side=hash_sides(seed, sides),
        order=_hashes(seed, "order", keys),
        group=_hashes(seed, "group", keys),
        storage_order=_hashes(seed, "place", keys),
        system=_hash_system_texts(batch["system"]),
        images=images,
        photographs=images,
        digests=np.array([n for some in batch["image_digests"] for n in some], dtype=np.uint64),
        image_starts=offsets_from_counts(len(some) for some in image_keys),
        num_rounds=np.array(batch["num_rounds"], dtype=np.int64),
        stored_bytes=estimate_bytes(batch, policy),
    )


def hash_sides(seed: int, keys: Sequence[str]) -> Hashes:
    """Return uint64[..]: the hashes that decide the side of pictures and text-only records."""
    return _hashes(seed, "side", keys)


def _hashes(seed: int, purpose: str, keys: Sequence[str]) -> Hashes:
    return np.array([keyed_hash(seed, purpose, key) for key in keys], dtype=np.uint64)


def _hash_system_texts(texts: Iterable[str | None]) -> Hashes:
    """Return uint64[..]: a hash of each text, 0 for None."""
    hashed = [0 if text is None else xxhash.xxh3_64_intdigest(text.encode()) for text in texts]
    return np.array(hashed, dtype=np.uint64)


def hash_image_keys(keys: Iterable[str]) -> Hashes:
    """Return uint64[..]: what stands for the canonical keys of images in all columns."""
    return np.array([xxhash.xxh3_64_intdigest(key.encode()) for key in keys], dtype=np.uint64)


def blend_records(
    sources: Sequence[RecordColumns],
    *,
    concatenate: Sequence[int],
    limits: Sequence[int | None],
    max_images: int,
    eval_fraction: float,
) -> list[SourceBlend]:
    """Return the dialogues of every source; no photograph is on both sides of the split.

    Args:
        sources: Columns of all sources, their photographs joined.
        concatenate: Per source, the most single-image records that are joined into one dialogue.
        limits: Per source, the most records that are used; None for all.
        max_images: The most images of one dialogue.
        eval_fraction: Share of the photographs that are held out.
    """
    statuses = [
        _apply_limits(columns, limit=limit, max_images=max_images)
        for columns, limit in zip(sources, limits, strict=True)
    ]
    eval_side = [
        (status == USED) & (columns.side < _threshold(eval_fraction))
        for columns, status in zip(sources, statuses, strict=True)
    ]
    if any(side.any() for side in eval_side):
        held_out = distinct_photographs(sources, eval_side)
        for columns, status, is_eval in zip(sources, statuses, eval_side, strict=True):
            touches = _shows_any(columns, held_out) & ~is_eval & (status == USED)
            status[touches] = STATUSES.index("held_out_image")
    return [
        _join_records(columns, status, is_eval, most=min(most, max_images))
        for columns, status, is_eval, most in zip(
            sources, statuses, eval_side, concatenate, strict=True
        )
    ]


def _threshold(fraction: float) -> np.uint64:
    return np.uint64(min(int(fraction * HASH_RANGE), HASH_RANGE - 1))


def _apply_limits(
    columns: RecordColumns, *, limit: int | None, max_images: int
) -> NDArray[np.int8]:
    """Return int8[N] after the limits on images and on records, before the split."""
    status = np.zeros(len(columns.order), dtype=np.int8)
    status[columns.num_images > max_images] = STATUSES.index("too_many_images")
    usable = np.flatnonzero(status == USED)
    if limit is not None and len(usable) > limit:
        ranked = usable[np.lexsort((usable, columns.order[usable]))]
        status[ranked[limit:]] = STATUSES.index("capped")
    return status


def distinct_photographs(sources: Sequence[RecordColumns], chosen: Sequence[Bools]) -> Hashes:
    """Return the sorted distinct photographs of the chosen records of all sources."""
    images = [
        columns.photographs[np.repeat(is_chosen, columns.num_images)]
        for columns, is_chosen in zip(sources, chosen, strict=True)
    ]
    return np.unique(np.concatenate(images))


def _shows_any(columns: RecordColumns, photographs: Hashes) -> Bools:
    """Return bool[N]: whether a record shows any of the given sorted photographs."""
    shown = np.isin(columns.photographs, photographs)
    shows: Bools = segment_sums(shown, columns.image_starts) > 0
    return shows


def _join_records(
    columns: RecordColumns, status: NDArray[np.int8], is_eval: Bools, *, most: int
) -> SourceBlend:
    """Join the used records of each side into dialogues of 1 to `most` records."""
    parts = [
        _group_records(columns, (status == USED) & (is_eval == side), most=most)
        for side in (False, True)
    ]
    return SourceBlend(
        source=columns.source,
        status=status,
        is_eval=np.repeat([False, True], [len(sizes) for _, sizes in parts]),
        record_numbers=np.concatenate([numbers for numbers, _ in parts]),
        starts=offsets_from_counts(np.concatenate([sizes for _, sizes in parts])),
    )


def _group_records(columns: RecordColumns, chosen: Bools, *, most: int) -> tuple[Counts, Counts]:
    """Return every chosen record once, group by group, and int64[groups] with the groups' sizes.

    Single-image records of one system text are taken in hash order, 1 to `most` at a time, each
    number equally often (the last group holds the rest); any other record is a dialogue of its own.
    """
    single = columns.num_images == 1
    alone = np.flatnonzero(chosen & ~single)
    to_join = np.flatnonzero(chosen & single)
    to_join = to_join[np.lexsort((to_join, columns.order[to_join], columns.system[to_join]))]
    draws = (columns.group[to_join] % np.uint64(most)).astype(np.int64) + 1
    ends = _run_ends(columns.system[to_join])
    sizes = draws if most == 1 else _cut_group_sizes(draws, ends)
    numbers = np.concatenate((alone, to_join))
    return numbers, np.concatenate((np.ones(len(alone), dtype=np.int64), sizes))


def _run_ends(values: Hashes) -> Counts:
    """Return int64[N]: where the run of equal neighbours that each value stands in ends."""
    ends = np.append(np.flatnonzero(values[1:] != values[:-1]) + 1, len(values))
    return ends[np.searchsorted(ends, np.arange(len(values)), side="right")]


def _cut_group_sizes(draws: Counts, ends: Counts) -> Counts:
    """Return the sizes of groups, each as drawn for the record that it starts with.

    Args:
        draws: int64[N], the size of a group that starts with each record.
        ends: int64[N], where such a group ends at the latest.
    """
    sizes, start = array("q"), 0
    while start < len(draws):
        size = min(int(draws[start]), int(ends[start]) - start)
        sizes.append(size)
        start += size
    return np.frombuffer(sizes, dtype=np.int64) if sizes else np.zeros(0, dtype=np.int64)
