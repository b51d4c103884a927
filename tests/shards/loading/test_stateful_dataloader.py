"""torchdata's StatefulDataLoader saves and resumes the loader, in one process and with workers."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torchdata.stateful_dataloader import StatefulDataLoader

from vchat.shards.format.shard_set import ShardSet
from vchat.shards.loading.collate import Batch
from vchat.shards.loading.loader import Loader
from vchat.shards.plan.arguments import PlanArguments, SourceShare
from vchat_testing.toy import toy_shards


@pytest.fixture(scope="module")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return toy_shards(
        tmp_path_factory.mktemp("shards") / "set",
        num_samples=30,
        images_per_sample=lambda number: number % 3,
        samples_per_shard=9,
    )


def loader(shard_set: ShardSet, **changes: Any) -> Loader:
    arguments = PlanArguments(
        split="train",
        seed=changes.pop("seed", 1),
        epoch=0,
        tokens_per_row=400,
        images_per_row=8,
        positions_per_image=5,
        shuffle_window_shards=2,
        lanes=2,
        mix=(SourceShare(source="toy2", weight=1.5),),
    )
    given = {"rows_per_step": 5, "rows_per_micro_batch": 2, "image_size": 32, "threads": 1}
    return Loader(shard_set, arguments, **(given | changes))


def stateful(rank: Loader, *, workers: int) -> StatefulDataLoader[Batch]:
    return StatefulDataLoader(rank, batch_size=None, num_workers=workers)


def keys(batches: list[Batch]) -> list[Any]:
    return [(batch.epoch, batch.step, batch.micro_batch, batch.keys) for batch in batches]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 4, 23])
def test_a_stop_in_mid_step_or_mid_epoch_changes_nothing(
    shard_set: ShardSet, workers: int, stop: int
) -> None:
    wanted = list(itertools.islice(loader(shard_set), 30))
    assert {batch.epoch for batch in wanted} > {0}
    before = stateful(loader(shard_set), workers=workers)
    first = list(itertools.islice(before, stop))
    state = json.loads(json.dumps(before.state_dict()))
    after = stateful(loader(shard_set), workers=workers)
    after.load_state_dict(state)
    second = list(itertools.islice(after, 30 - stop))
    assert keys(first + second) == keys(wanted)
    for found, batch in zip(first + second, wanted, strict=True):
        assert torch.equal(found.labels, batch.labels)
        assert torch.equal(found.pixels, batch.pixels)


def test_a_state_of_other_arguments_is_refused(shard_set: ShardSet) -> None:
    before = stateful(loader(shard_set), workers=0)
    next(iter(before))
    after = stateful(loader(shard_set, seed=2), workers=0)
    after.load_state_dict(before.state_dict())
    with pytest.raises(ValueError, match="epoch 0 at row 0: seed was 1, is 2"):
        next(iter(after))


def test_a_state_of_another_share_of_the_batches_is_refused(shard_set: ShardSet) -> None:
    before = stateful(loader(shard_set), workers=0)
    next(iter(before))
    after = stateful(loader(shard_set, rank=1, world_size=2), workers=0)
    after.load_state_dict(before.state_dict())
    with pytest.raises(ValueError, match="a change of topology needs the loader's own state_dict"):
        next(iter(after))


def test_another_number_of_workers_is_refused(shard_set: ShardSet) -> None:
    before = stateful(loader(shard_set), workers=2)
    stream = iter(before)
    next(stream)
    state = before.state_dict()
    del stream
    after = stateful(loader(shard_set), workers=1)
    after.load_state_dict(state)
    with pytest.raises(ValueError, match=r"'num_workers': 2}, this iterator .* 'num_workers': 1}"):
        next(iter(after))


def test_the_iterator_and_the_loader_keep_their_own_states(
    shard_set: ShardSet, tmp_path: Path
) -> None:
    rank = loader(shard_set)
    stream = iter(rank)
    batches = list(itertools.islice(stream, rank.micro_batches_per_step + 1))
    rank.finish_step()
    assert rank.state_dict()["position"] == 5
    assert stream.state_dict()["delivered"] == [0, 5, batches[-1].micro_batch]
