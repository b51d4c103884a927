"""Keys that share a digest are one photograph, on one side of the split, in whatever order."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vchat.prep.convert.images import ImagePolicy
from vchat.prep.plan import photographs
from vchat.prep.plan.blend import USED, blend_records, compute_record_columns, hash_image_keys
from vchat.prep.plan.photographs import join_photographs
from vchat_testing.blending import plan_columns

KEYS = [f"coco:{i}" for i in range(6)] + [f"xxh3:{i:x}" for i in range(6)] + ["path:a.jpg"]
SHOWN = st.tuples(st.sampled_from(KEYS), st.integers(0, 7))
"""A key and the number of the bytes that lie under it, 0 if they are unknown."""

WORLDS = st.lists(st.lists(st.lists(SHOWN, max_size=3), max_size=8), min_size=1, max_size=3)


def columns_of(world, *, seed=0):
    """Return the columns of each source of a world: records of `(key, digest)`."""
    found = []
    for number, records in enumerate(world):
        batch = plan_columns(
            [(f"s{number}/{i}", [key for key, _ in images]) for i, images in enumerate(records)]
        )
        batch["image_digests"] = [[digest for _, digest in images] for images in records]
        name = f"s{number}"
        found.append(compute_record_columns(name, [batch], seed=seed, policy=ImagePolicy()))
    return found


def read_keys_of(world):
    keys = sorted({key for records in world for images in records for key, _ in images})
    hashes = dict(zip(keys, hash_image_keys(keys), strict=True))
    return lambda wanted: [key for key in keys if hashes[key] in wanted]


def join(world, *, seed=0):
    return join_photographs(columns_of(world, seed=seed), seed=seed, read_keys=read_keys_of(world))


def components(world):
    """Return key -> the set of keys of the same picture, by brute force."""
    same = {key: {key} for records in world for images in records for key, _ in images}
    shown = {one for records in world for images in records for one in images if one[1]}
    for (key, digest), (other, its_digest) in itertools.product(shown, repeat=2):
        if digest == its_digest and same[key] is not same[other]:
            joined = same[key] | same[other]
            same |= dict.fromkeys(joined, joined)
    return same


@settings(max_examples=200, deadline=None)
@given(world=WORLDS, seed=st.integers(0, 3), images_at_once=st.sampled_from([1, 3, 2**24]))
def test_keys_are_one_photograph_if_and_only_if_digests_connect_them(world, seed, images_at_once):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(photographs, "IMAGES_AT_ONCE", images_at_once)
        joined = join(world, seed=seed)
    same = components(world)
    standing: dict[int, set[str]] = {}
    for columns, records in zip(joined, world, strict=True):
        keys = [key for images in records for key, _ in images]
        for key, photograph in zip(keys, columns.photographs.tolist(), strict=True):
            standing.setdefault(photograph, set()).add(key)
    assert sorted(map(sorted, standing.values())) == sorted(
        map(sorted, {frozenset(keys) for keys in same.values()})
    )


@settings(max_examples=200, deadline=None)
@given(world=WORLDS, seed=st.integers(0, 3), eval_fraction=st.sampled_from([0.1, 0.5]))
def test_no_bytes_are_on_both_sides(world, seed, eval_fraction):
    joined = join(world, seed=seed)
    blends = blend_records(
        joined,
        concatenate=[2] * len(world),
        limits=[None] * len(world),
        max_images=3,
        eval_fraction=eval_fraction,
    )
    same = components(world)
    sides: dict[frozenset, set[bool]] = {}
    for records, blend in zip(world, blends, strict=True):
        is_eval = np.zeros(len(records), dtype=bool)
        is_eval[blend.record_numbers[np.repeat(blend.is_eval, np.diff(blend.starts))]] = True
        for images, status, side in zip(records, blend.status, is_eval, strict=True):
            for key, _ in images if status == USED else []:
                sides.setdefault(frozenset(same[key]), set()).add(bool(side))
    assert all(len(found) == 1 for found in sides.values())


@settings(max_examples=50, deadline=None)
@given(world=WORLDS)
def test_the_order_of_sources_and_records_does_not_matter(world):
    world = [[images for images in records if images] for records in world]
    there, back = join(world), join([records[::-1] for records in world[::-1]])[::-1]
    for one, other, records in zip(there, back, world, strict=True):
        assert one.side.tolist() == other.side.tolist()[::-1]
        ends = one.image_starts
        shown = [one.photographs[a:b].tolist() for a, b in itertools.pairwise(ends)]
        ends = other.image_starts
        reverse = [other.photographs[a:b].tolist() for a, b in itertools.pairwise(ends)]
        assert shown == reverse[::-1], records


def test_a_copy_among_own_pictures_does_not_move_a_known_photograph():
    alone = join([[[("coco:1", 5)]]])
    known, own = join([[[("coco:1", 5)]], [[("xxh3:05", 5)], [("another:1", 5)]]])
    assert own.photographs.tolist() == [known.photographs[0]] * 2
    (other,) = alone
    assert [known.side[0], *own.side] == [
        join([[[("another:1", 5)]]])[0].side[0],
    ] * 3, "of two canonical keys, the first by alphabet"
    known, own = join([[[("coco:1", 5)]], [[("xxh3:05", 5)]]])
    assert known.side.tolist() == own.side.tolist() == other.side.tolist()


def test_keys_are_not_read_where_no_two_pictures_are_equal():
    def refuse(_):
        raise AssertionError("the staged files are read again")

    world = [[[("coco:1", 5)], [("coco:2", 6), ("coco:3", 0)]], [[("coco:4", 0)]]]
    before = columns_of(world)
    after = join_photographs(before, seed=0, read_keys=refuse)
    assert [one.photographs.tolist() for one in after] == [one.images.tolist() for one in before]


def test_a_long_chain_of_pictures_is_joined():
    count = 5000
    order = np.random.default_rng(0).permutation(count)
    chain = [[(f"k:{i}", i + 1), (f"k:{i}", i + 2)] for i in order.tolist()]
    (joined,) = join([chain])
    assert len(set(joined.photographs.tolist())) == 1
