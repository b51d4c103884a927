"""The loader delivers the plan, to the token, and goes on exactly after any stop."""

from __future__ import annotations

import itertools

import pytest
from drawn_shards import color_of, drawn_shards
from vchat.shards.collate import Batch
from vchat.shards.epoch import PlanArguments
from vchat.shards.loader import Loader
from vchat.shards.manifest import ShardSet

POSITIONS_PER_IMAGE = 5


@pytest.fixture(scope="module")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return drawn_shards(tmp_path_factory.mktemp("shards"))


def arguments(**changes: object) -> PlanArguments:
    given = {
        "split": "train",
        "seed": 1,
        "epoch": 0,
        "tokens_per_row": 64,
        "images_per_row": 8,
        "positions_per_image": POSITIONS_PER_IMAGE,
        "shuffle_window_shards": 2,
        "lanes": 2,
    }
    return PlanArguments(**(given | changes))  # type: ignore[arg-type]


def loader(shard_set: ShardSet, **changes: object) -> Loader:
    given = {"rows_per_step": 4, "rows_per_micro_batch": 2, "image_size": 16}
    return Loader(shard_set, arguments(), **(given | changes))  # type: ignore[arg-type]


def epoch_of(loader: Loader) -> list[Batch]:
    """All batches of the first epoch."""
    return list(itertools.takewhile(lambda batch: batch.epoch == 0, loader))


def test_an_epoch_holds_every_sample_exactly_once(shard_set: ShardSet) -> None:
    keys = [key for batch in epoch_of(loader(shard_set)) for row in batch.keys for key in row]
    assert sorted(keys) == sorted(shard_set.index("train")["key"].to_pylist())


def test_images_stand_in_the_order_of_their_slots(shard_set: ShardSet) -> None:
    for batch in epoch_of(loader(shard_set)):
        numbers = [int(key.split("/")[1]) for row in batch.keys for key in row]
        wanted = [color_of(number, k) for number in numbers for k in range(number % 4)]
        assert [tuple(pixels[:, 8, 8].tolist()) for pixels in batch.pixels] == wanted
