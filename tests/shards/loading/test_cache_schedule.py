"""The plan decides which whole shards a machine caches."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vchat.shards.loading.cache_schedule import ShardUse, shard_use, shards_to_cache
from vchat.shards.loading.ranges import REQUEST_BYTES
from vchat_testing.toy import toy_shards
from vchat_testing.toy_loading import toy_arguments, toy_loader


def test_shard_use_equals_counting_row_by_row(tmp_path: Path) -> None:
    shard_set = toy_shards(tmp_path / "set", num_samples=24, samples_per_shard=3)
    plan = toy_loader(shard_set, toy_arguments(lanes=1)).plan(0)
    rows = np.arange(plan.num_rows) % 2 == 1
    sizes = np.arange(1, len(plan.index) + 1)
    num_shards = len(shard_set.manifest["shards"])
    use = shard_use(plan, rows, sample_bytes=sizes, num_shards=num_shards)
    for shard in range(num_shards):
        draws = [
            (row, number)
            for row in range(1, plan.num_rows, 2)
            for number in plan.row(row).tolist()
            if plan.index.shard[number] == shard
        ]
        assert use.range_cost[shard] == sum(sizes[n] + REQUEST_BYTES for _, n in draws)
        if draws:
            assert (use.first[shard], use.last[shard]) == (draws[0][0], draws[-1][0])


def test_shards_to_cache_are_those_still_needed_in_order_of_need_within_the_budget() -> None:
    use = ShardUse(
        first=np.array([8, 0, 2, 4, 6]),
        last=np.array([9, 1, 9, 9, 9]),
        range_cost=np.array([100, 100, 100, 99, 150]),
    )
    sizes = np.full(5, 100)
    assert shards_to_cache(use, sizes=sizes, next_row=2, budget=1000) == [2, 4, 0]
    assert shards_to_cache(use, sizes=sizes, next_row=2, budget=299) == [2, 4]
    assert shards_to_cache(use, sizes=sizes, next_row=0, budget=199) == [1]
    assert shards_to_cache(use, sizes=np.zeros(5, np.int64), next_row=0, budget=1000) == []
