"""Which samples a step read, and which steps read a sample, agree with what the loader delivers."""

import pytest
from training_runs import toy_shards, write_run
from vchat.shards.loader import Loader
from vchat.shards.manifest import open_shards
from vchat.train.config import read_run
from vchat.train.data import ModelSizes, plan_arguments
from vchat.train.lineage import samples_of_step, steps_of_sample

PROCESSES = 2


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lineage")
    run_file = write_run(folder, shards=toy_shards(folder / "shards", num_train=12))
    return read_run(run_file), open_shards(folder / "shards")


def loader_of(config, shard_set, *, rank: int) -> Loader:
    arguments = plan_arguments(config, ModelSizes(image_size=32, positions_per_image=5))
    return Loader(
        shard_set,
        arguments,
        rows_per_step=config.batch.rows_per_step,
        rank=rank,
        world_size=PROCESSES,
        image_size=32,
    )


def delivered(config, shard_set, *, steps: int) -> dict[int, dict[int, list[str]]]:
    """Step -> rank -> keys, as the loaders of all ranks really yield them."""
    keys: dict[int, dict[int, list[str]]] = {step: {} for step in range(1, steps + 1)}
    for rank in range(PROCESSES):
        loader = loader_of(config, shard_set, rank=rank)
        batches = iter(loader)
        for step in keys:
            batch_keys = [next(batches).keys for _ in range(loader.micro_batches_per_step)]
            keys[step][rank] = [key for rows in batch_keys for row in rows for key in row]
    return keys


def test_a_step_has_the_samples_that_the_ranks_read(opened):
    config, shard_set = opened
    loader = loader_of(config, shard_set, rank=0)
    for step, of_rank in delivered(config, shard_set, steps=7).items():
        places = list(samples_of_step(loader, config, step=step, num_processes=PROCESSES))
        for rank, keys in of_rank.items():
            assert [place.key for place in places if place.rank == rank] == keys


def test_the_steps_of_a_sample_are_those_that_hold_it(opened):
    config, shard_set = opened
    loader = loader_of(config, shard_set, rank=0)
    key = "toy/train/3"
    holding = [
        step
        for step in range(1, 13)
        if any(p.key == key for p in samples_of_step(loader, config, step=step, num_processes=1))
    ]
    assert steps_of_sample(loader, config, key=key) == holding
    assert len(holding) >= 2


def test_a_step_or_a_sample_that_does_not_exist_is_named(opened):
    config, shard_set = opened
    loader = loader_of(config, shard_set, rank=0)
    with pytest.raises(ValueError, match="step 13: the run has steps 1 to 12"):
        list(samples_of_step(loader, config, step=13, num_processes=1))
    with pytest.raises(ValueError, match="toy/none: no sample of split train has this key"):
        steps_of_sample(loader, config, key="toy/none")
