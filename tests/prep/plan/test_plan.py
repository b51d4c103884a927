"""A plan is a pure function of its inputs, cut into shards of about the wanted size."""

import pytest

from vchat.prep.convert.images import ImagePolicy
from vchat.prep.plan.estimate import estimate_bytes
from vchat.prep.plan.plan import make_plan, read_plan, write_plan
from vchat_testing.blending import blend_sources, one_photo_records, plan_columns


def test_another_seed_gives_another_split_and_another_plan():
    plans = set()
    for seed in (0, 1):
        found, blends = blend_sources({"llava": one_photo_records(50)}, seed=seed)
        plans.add(make_plan(found, blends, shard_bytes=10**6, settings={}).digest)
    assert len(plans) == 2


def test_equal_inputs_give_this_plan_on_every_machine():
    found, blends = blend_sources(
        {"llava": one_photo_records(50), "cgd": [("cgd/1", ["coco:51", "coco:52"])]}
    )
    plan = make_plan(found, blends, shard_bytes=200_000, settings={"a": 1})
    assert plan.digest == "01b54ff7501f8b5ee62a21e84c873cbb463474962ea27c7bd1570f0881a10eb3"
    other = make_plan(found, blends, shard_bytes=200_000, settings={"a": 2})
    assert other.digest != plan.digest


def test_a_stored_plan_is_read_back(tmp_path):
    found, blends = blend_sources({"llava": one_photo_records(50)}, limit=40)
    plan = make_plan(found, blends, shard_bytes=200_000, settings={})
    write_plan(plan, tmp_path)
    assert read_plan(tmp_path) == plan


def test_shards_are_about_the_wanted_size():
    found, blends = blend_sources({"llava": one_photo_records(3000)}, eval_fraction=0.0)
    plan = make_plan(found, blends, shard_bytes=2_000_000, settings={})
    sizes = [shard.stored_bytes for shard in plan.shards]
    assert len(sizes) > 10
    assert max(sizes) < 2_200_000
    assert min(sizes) > 1_700_000


def test_no_record_left_is_an_error():
    found, blends = blend_sources({"llava": [("k", ["a", "b", "c", "d"])]}, max_images=3)
    with pytest.raises(ValueError, match="no record is left"):
        make_plan(found, blends, shard_bytes=10**6, settings={})


def test_estimates_follow_the_policy():
    records = plan_columns([("a", ["p"]), ("b", []), ("c", ["p", "q"])])
    small, text, two = estimate_bytes(records, ImagePolicy(size=112)).tolist()
    large = estimate_bytes(records, ImagePolicy(size=448))[0]
    assert text < small < two < large
