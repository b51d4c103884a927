"""Raw samples are what webdataset reads from the tars, in the order of the plan, resumable."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import webdataset
from torchdata.stateful_dataloader import StatefulDataLoader

from vchat.shards.format.shard_set import ShardSet
from vchat.shards.loading.raw_samples import RawSample, RawSamples
from vchat.shards.plan.arguments import PlanArguments
from vchat.shards.storage.store import ShardError
from vchat_testing.toy import toy_shards


@pytest.fixture(scope="module")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    folder = tmp_path_factory.mktemp("shards") / "set"
    return toy_shards(
        folder, num_samples=24, images_per_sample=lambda n: n % 3, samples_per_shard=9
    )


def raw(sets: ShardSet | list[ShardSet], *, seed: int = 0, **changes: Any) -> RawSamples:
    arguments = PlanArguments(
        split="train",
        seed=seed,
        epoch=0,
        tokens_per_row=400,
        images_per_row=8,
        positions_per_image=5,
        shuffle_window_shards=8,
    )
    return RawSamples(sets, arguments, **changes)


def train_shards(shard_set: ShardSet) -> list[str]:
    shards = shard_set.manifest["shards"]
    return [shard["name"] for shard in shards if shard["split"] == "train"]


def keys(samples: list[RawSample]) -> list[str]:
    return [json.loads(sample["json"])["key"] for sample in samples]


def test_dictionaries_equal_those_of_webdataset(shard_set: ShardSet) -> None:
    read = webdataset.WebDataset(
        [str(shard_set.folder / name) for name in train_shards(shard_set)], shardshuffle=False
    )
    wanted = {
        sample["__key__"]: {k: v for k, v in sample.items() if not k.startswith("__")}
        for sample in read
    }
    found = list(raw(shard_set))
    assert len(found) == len(wanted) == 24
    for sample in found:
        members = {k: v for k, v in sample.items() if not k.startswith("__")}
        assert members == wanted[sample["__key__"]]


def test_each_epoch_has_every_sample_once_in_an_order_of_its_own(shard_set: ShardSet) -> None:
    stream = raw(shard_set)
    first, second = keys(list(stream)), keys(list(stream))
    assert sorted(first) == sorted(second) == sorted(set(first))
    assert first != second


def test_ranks_share_out_the_epoch(shard_set: ShardSet) -> None:
    shares = [keys(list(raw(shard_set, rank=rank, world_size=3))) for rank in range(3)]
    assert sorted(itertools.chain(*shares)) == sorted(keys(list(raw(shard_set))))


@pytest.mark.parametrize("stop", [1, 7, 24, 31])
def test_a_stop_at_any_sample_changes_nothing(shard_set: ShardSet, stop: int) -> None:
    def endless(stream: RawSamples) -> Any:
        while True:
            yield from stream

    wanted = keys(list(itertools.islice(endless(raw(shard_set)), 48)))
    before = raw(shard_set)
    found = keys(list(itertools.islice(endless(before), stop)))
    after = raw(shard_set)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    found += keys(list(itertools.islice(endless(after), 48 - stop)))
    assert found == wanted


def test_a_state_of_another_plan_or_rank_is_refused(shard_set: ShardSet) -> None:
    before = raw(shard_set)
    next(iter(before))
    with pytest.raises(ValueError, match="seed was 0, is 1"):
        raw(shard_set, seed=1).load_state_dict(before.state_dict())
    with pytest.raises(ValueError, match="after 1 samples: rank was 0, is 1"):
        raw(shard_set, rank=1, world_size=2).load_state_dict(before.state_dict())


def test_workers_resume_through_a_stateful_dataloader(shard_set: ShardSet) -> None:
    def workers() -> StatefulDataLoader[RawSample]:
        return StatefulDataLoader(raw(shard_set), batch_size=None, num_workers=2)

    wanted = keys(list(workers()))
    assert sorted(wanted) == sorted(keys(list(raw(shard_set))))
    before, after = workers(), workers()
    found = keys(list(itertools.islice(before, 9)))
    after.load_state_dict(before.state_dict())
    assert found + keys(list(after)) == wanted


def test_several_sets_are_read_as_one(shard_set: ShardSet, tmp_path: Path) -> None:
    other = toy_shards(tmp_path / "set", num_samples=3)
    stored = {sample["__url__"] for sample in raw([shard_set, other])}
    assert len(list(raw([shard_set, other]))) == 27
    assert stored == set(train_shards(shard_set))


def test_a_wrong_byte_is_an_error(tmp_path: Path) -> None:
    damaged = toy_shards(tmp_path / "set", num_samples=3)
    path = damaged.folder / "train-000000.tar"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"\xff\xd9", b"\xff\xd8"))
    with pytest.raises(ShardError, match="has checksum"):
        list(raw(damaged))
