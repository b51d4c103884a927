"""Several sets read as one: a number means the same sample to a plan and to every reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from vchat.shards.format.shard_set import ShardSet
from vchat.shards.loading.fetch import SampleFetcher
from vchat.shards.plan.joined_sets import join_sets
from vchat_testing.toy import toy_shards


@pytest.fixture
def sets(tmp_path: Path) -> list[ShardSet]:
    return [
        toy_shards(tmp_path / str(number), num_samples=num_samples, samples_per_shard=3)
        for number, num_samples in enumerate((7, 4, 5))
    ]


def test_a_number_locates_the_sample_that_the_plan_means(sets: list[ShardSet]) -> None:
    joined = join_sets(sets, split="train")
    own_entries = [
        (shard_set, entry) for shard_set in sets for entry in shard_set.index("train").to_pylist()
    ]
    assert len(own_entries) == len(joined.index) == 16
    for number, (shard_set, entry) in enumerate(own_entries):
        assert joined.locate(number) == (shard_set, entry)
        assert joined.index.keys[number] == entry["key"]


def test_training_fetches_the_sample_that_inspection_reads(sets: list[ShardSet]) -> None:
    joined = join_sets(sets, split="train")
    fetcher = SampleFetcher(joined)
    for number in range(len(joined.index)):
        shard_set, entry = joined.locate(number)
        sample, fetched = shard_set.read_sample(entry), fetcher.fetch(number)
        assert fetched.ids.tolist() == sample.ids.tolist()
        assert fetched.supervised.tolist() == sample.supervised.tolist()
        assert [bytes(image) for image in fetched.images] == [i.data for i in sample.images]
