"""Any set of records: each is used exactly once or has a reason; no photograph on both sides."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vchat.prep.convert.images import ImagePolicy
from vchat.prep.plan.blend import STATUSES, USED, blend_records, compute_record_columns
from vchat.prep.plan.plan import make_plan
from vchat_testing.blending import blend_sources, one_photo_records, plan_columns


def dialogues(records, blend):
    """Return `(is_eval, records)` of every dialogue of a blend."""
    segments = zip(blend.starts[:-1], blend.starts[1:], blend.is_eval, strict=True)
    return [
        (bool(side), [records[number] for number in blend.record_numbers[a:b]])
        for a, b, side in segments
    ]


IMAGES = st.lists(st.integers(0, 30).map("p:{}".format), max_size=5)
SOURCES = st.dictionaries(
    st.sampled_from(["llava", "cgd", "mine"]),
    st.lists(IMAGES, max_size=40).map(lambda some: [(f"k{i}", one) for i, one in enumerate(some)]),
    min_size=1,
)


@settings(max_examples=150, deadline=None)
@given(
    sources=SOURCES,
    concatenate=st.integers(1, 4),
    limit=st.none() | st.integers(1, 20),
    max_images=st.integers(1, 5),
    eval_fraction=st.sampled_from([0.0, 0.1, 0.5]),
    seed=st.integers(0, 3),
)
def test_every_record_is_used_exactly_once_or_has_a_reason(sources, **settings):
    found, blends = blend_sources(sources, **settings)
    shown = {True: set(), False: set()}
    for (_, records), one in zip(sources.items(), blends, strict=True):
        used = np.flatnonzero(one.status == USED)
        assert sorted(one.record_numbers) == used.tolist()
        if settings["limit"]:
            left = (one.status == USED) | (one.status == STATUSES.index("held_out_image"))
            assert left.sum() <= settings["limit"]
        for is_eval, some in dialogues(records, one):
            images = [image for _, of in some for image in of]
            assert len(images) <= settings["max_images"]
            assert len(some) <= settings["concatenate"]
            assert len(some) == 1 or all(len(of) == 1 for _, of in some)
            shown[is_eval] |= set(images)
    assert not shown[True] & shown[False], "a photograph is on both sides"
    if sum(len(one.starts) - 1 for one in blends):
        plan = make_plan(found, blends, shard_bytes=50_000, settings={})
        check_plan(plan, sources, blends)


def check_plan(plan, sources, blends):
    """Check that the plan holds each used record once, in shards that follow one another."""
    rows = plan.table.to_pylist()
    for (name, _), one in zip(sources.items(), blends, strict=True):
        taken = [row for dialogue in rows if dialogue["source"] == name for row in dialogue["rows"]]
        assert sorted(taken) == sorted(one.record_numbers)
        assert sum(plan.unused[name].values()) == (one.status != USED).sum()
    assert [shard.start for shard in plan.shards] == [0, *(s.end for s in plan.shards[:-1])]
    assert plan.shards[-1].end == len(rows)
    for split in ("train", "eval"):
        shards = [shard for shard in plan.shards if shard.split == split]
        assert [shard.name for shard in shards] == [f"{split}-{i:06d}" for i in range(len(shards))]
    numbers = [shard.first_number for shard in plan.shards]
    assert numbers == sorted(set(numbers)), "stems are unique over the set"


def test_the_order_of_the_records_does_not_matter():
    records = one_photo_records(200)
    backwards = records[::-1]
    _, (one,) = blend_sources({"llava": records}, limit=150)
    _, (other,) = blend_sources({"llava": backwards}, limit=150)
    assert dialogues(records, one) == dialogues(backwards, other)


def test_group_sizes_are_uniform():
    records = one_photo_records(20_000)
    _, (one,) = blend_sources({"llava": records}, eval_fraction=0.0)
    sizes = np.bincount(np.diff(one.starts))[1:]
    assert sizes.sum() == len(one.starts) - 1
    assert (np.abs(sizes / sizes.sum() - 1 / 3) < 0.02).all()


def test_the_held_out_share_is_about_the_fraction():
    records = one_photo_records(20_000)
    _, (one,) = blend_sources({"llava": records}, concatenate=1, eval_fraction=0.05)
    assert abs(one.is_eval.mean() - 0.05) < 0.01


def test_a_photograph_is_held_out_under_all_its_records():
    seeds = [seed for seed in range(40) if side_of("coco:1", seed)]
    sources = {
        "llava": [("llava/1", ["coco:1"])],
        "cgd": [("cgd/1", ["coco:2", "coco:1"]), ("cgd/2", ["coco:3", "coco:4"])],
    }
    for seed in seeds:
        if not side_of("coco:2", seed):
            _, (llava, cgd) = blend_sources(sources, eval_fraction=0.5, seed=seed)
            assert llava.is_eval.tolist() == [True]
            assert STATUSES[cgd.status[0]] == "held_out_image"
            return
    pytest.fail("no seed holds out coco:1 and not coco:2")


def side_of(image, seed):
    _, (one,) = blend_sources({"a": [("k", [image])]}, eval_fraction=0.5, seed=seed)
    return bool(one.is_eval[0])


def test_records_with_different_system_texts_are_never_joined():
    records = one_photo_records(300)
    texts = [(None, "Be brief.", "Be long.")[number % 3] for number in range(300)]
    batch = plan_columns(records) | {"system": texts}
    columns = compute_record_columns("llava", [batch], seed=0, policy=ImagePolicy())
    (one,) = blend_records(
        [columns], concatenate=[3], limits=[None], max_images=3, eval_fraction=0.2
    )
    assert sorted(one.record_numbers) == list(range(300))
    joined = [one.record_numbers[a:b] for a, b in pairwise(one.starts)]
    assert all(len({texts[number] for number in group}) == 1 for group in joined)
    assert {len(group) for group in joined} == {1, 2, 3}
