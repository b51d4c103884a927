"""Find which keys name the same picture: those that share a digest, directly or through others.

A picture may come as `coco:42` from one source and as a copy in an own folder from another. Both
must be on one side of the split. Here they become one photograph, whose side is that of one of its
keys: a canonical key, if it has one, so that copies in other sources never move it. The result
depends on the set of keys and digests, not on their order.

Memory: 8 bytes per image where any key changes, and a part of the images at a time; the keys that
share a digest with others, some 100 bytes each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vchat.prep.plan.blend import Counts, Hashes, RecordColumns, hash_image_keys, hash_sides
from vchat.prep.raw.identity import kind_of_key

IMAGES_AT_ONCE = 2**24
"""About how many images are sorted at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Joined:
    """Keys that do not stand for their picture alone, K of them."""

    hashes: Hashes
    """uint64[K], of the keys, sorted."""

    photographs: Hashes
    """uint64[K], hash of the key that stands for the picture."""

    sides: Hashes
    """uint64[K], the hash that decides its side."""


def join_photographs(
    sources: Sequence[RecordColumns],
    *,
    seed: int,
    read_keys: Callable[[Hashes], Sequence[str]],
) -> list[RecordColumns]:
    """Return the columns with one photograph, and one side, for all keys that share a digest.

    Args:
        sources: Columns of all sources.
        seed: Of the build.
        read_keys: Returns the keys that have these sorted hashes, in any order; called only if
            some keys share a digest.
    """
    keys, digests = _find_shared_digests(sources)
    if not len(keys):
        return list(sources)
    hashes, number = np.unique(keys, return_inverse=True)
    same_digest = digests[1:] == digests[:-1]
    components = _connect(number[:-1][same_digest], number[1:][same_digest], count=len(hashes))
    joined = _choose_keys(hashes, components, seed=seed, keys=read_keys(hashes))
    return [_replace_keys(columns, joined) for columns in sources]


def _find_shared_digests(sources: Sequence[RecordColumns]) -> tuple[Hashes, Hashes]:
    """Return the distinct `(key, digest)` whose digest several keys have, sorted by digest."""
    parts = [_sort_pairs(keys, digests) for keys, digests in _partitions(sources)]
    empty = np.zeros(0, dtype=np.uint64)
    keys = np.concatenate([empty, *(keys for keys, _ in parts)])
    return keys, np.concatenate([empty, *(digests for _, digests in parts)])


def _partitions(sources: Sequence[RecordColumns]) -> Iterator[tuple[Hashes, Hashes]]:
    """Yield `(key, digest)` of all images whose digest is known, equal digests together."""
    total = sum(len(columns.digests) for columns in sources)
    count = np.uint64(1 + total // IMAGES_AT_ONCE)
    for number in range(int(count)):
        chosen = [
            (columns.digests % count == number) & (columns.digests != 0) for columns in sources
        ]
        yield (
            np.concatenate([one.images[mine] for one, mine in zip(sources, chosen, strict=True)]),
            np.concatenate([one.digests[mine] for one, mine in zip(sources, chosen, strict=True)]),
        )


def _sort_pairs(keys: Hashes, digests: Hashes) -> tuple[Hashes, Hashes]:
    """Return the distinct pairs whose digest is in several of them, by digest and key."""
    order = np.lexsort((keys, digests))
    keys, digests = keys[order], digests[order]
    is_first = np.ones(len(keys), dtype=np.bool_)
    is_first[1:] = (keys[1:] != keys[:-1]) | (digests[1:] != digests[:-1])
    keys, digests = keys[is_first], digests[is_first]
    is_shared = np.zeros(len(keys), dtype=np.bool_)
    is_shared[1:] = digests[1:] == digests[:-1]
    is_shared[:-1] |= is_shared[1:]
    return keys[is_shared], digests[is_shared]


def _connect(one: Counts, other: Counts, *, count: int) -> Counts:
    """Return int64[count]: the least number of the component that each number is in.

    Args:
        one: An end of each edge.
        other: Its other end.
        count: Nodes, numbered from 0.
    """
    roots = np.arange(count, dtype=np.int64)
    while True:
        first, second = roots[one], roots[other]
        low, high = np.minimum(first, second), np.maximum(first, second)
        if (low == high).all():
            return roots
        np.minimum.at(roots, high, low)
        while not np.array_equal(roots, further := roots[roots]):
            roots = further


def _choose_keys(hashes: Hashes, components: Counts, *, seed: int, keys: Sequence[str]) -> _Joined:
    """Choose the key that stands for each component: a canonical one first, then by alphabet."""
    ranked = sorted(set(keys), key=lambda key: (kind_of_key(key) != "canonical", key))
    ranked_hashes = hash_image_keys(ranked)
    component = components[np.searchsorted(hashes, ranked_hashes)]
    roots, first = np.unique(component, return_index=True)
    chosen = first[np.searchsorted(roots, components)]
    sides = hash_sides(seed, [ranked[number] for number in first])
    return _Joined(
        hashes=hashes,
        photographs=ranked_hashes[chosen],
        sides=sides[np.searchsorted(roots, components)],
    )


def _replace_keys(columns: RecordColumns, joined: _Joined) -> RecordColumns:
    """Return the columns with the joined keys' photographs and sides."""
    place = np.searchsorted(joined.hashes, columns.images)
    place[place == len(joined.hashes)] = 0
    (found,) = np.nonzero(joined.hashes[place] == columns.images)
    photographs = columns.images.copy()
    photographs[found] = joined.photographs[place[found]]
    starts = columns.image_starts[:-1]
    (shows_any,) = np.nonzero(columns.num_images)
    first = starts[shows_any]
    is_joined = joined.hashes[place[first]] == columns.images[first]
    side = columns.side.copy()
    side[shows_any[is_joined]] = joined.sides[place[first[is_joined]]]
    return replace(columns, photographs=photographs, side=side)
