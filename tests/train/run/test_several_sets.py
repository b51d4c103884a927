"""A run over several shard sets draws from all, by weight, without the keys it excludes."""

import json
import shutil
from collections import Counter

import pytest

from vchat.shards.format.manifest import manifest_digest
from vchat.shards.pixels.grid import ImageGrid
from vchat.shards.storage.config import StorageConfig
from vchat.train.commands.where import print_step
from vchat.train.config.model import ModelSizes
from vchat.train.config.run import read_run
from vchat.train.engine.processes import RankShare
from vchat.train.forecast.forecast import Cluster, forecast_run, plan_run
from vchat.train.run.data import RunData, open_run_shards
from vchat_testing.training_runs import training_shards, write_run

SIZES = ModelSizes(image_size=32, grid=ImageGrid(positions_per_input=5))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two sets of 20 and 12 train samples, of one tokenizer."""
    folder = tmp_path_factory.mktemp("sets")
    training_shards(folder / "first", num_train=10)
    training_shards(folder / "second", num_train=6, seed=1)
    return folder


def config_of(folders, tmp_path, *, weight: float = 1.0, exclude: str = ""):
    run_file = write_run(tmp_path, shards=folders / "first")
    second = f'{{path="{folders / "second"}", weight={weight}}}'
    overrides = [f'data.shards=[{{path="{folders / "first"}"}}, {second}]']
    if exclude:
        (tmp_path / "keys.txt").write_text(exclude)
        overrides.append(f"data.exclude={tmp_path / 'keys.txt'}")
    return read_run(run_file, overrides=overrides)


def run_data(config) -> RunData:
    return RunData(
        open_run_shards(config.data, storage=config.storage),
        config.data,
        config.batch,
        config.run,
        sizes=SIZES,
        share=RankShare(rank=0, world_size=1),
    )


def keys_of_an_epoch(config) -> Counter[str]:
    data = run_data(config)
    steps = data.loader.plan(0).num_steps(config.batch.rows_per_step)
    batches = [batch for _ in range(steps) for batch in data.read_step()]
    return Counter(key for batch in batches for row in batch.keys for key in row)


def test_an_epoch_draws_each_set_by_its_weight(folders, tmp_path):
    # Keys are those of both sets: the second has keys 0 to 11, the first 0 to 19.
    drawn = keys_of_an_epoch(config_of(folders, tmp_path, weight=2.0))
    assert drawn.total() == 20 + 2 * 12
    assert drawn["toy/train/3"] == 3
    assert drawn["toy/train/15"] == 1


def test_excluded_keys_are_not_read(folders, tmp_path):
    config = config_of(folders, tmp_path, exclude="toy/train/3\ntoy/train/15\n")
    drawn = keys_of_an_epoch(config)
    assert drawn.total() == 32 - 3
    assert not {"toy/train/3", "toy/train/15"} & set(drawn)


def test_each_sample_is_held_out_once_whatever_the_weights(folders, tmp_path):
    data = run_data(config_of(folders, tmp_path, weight=0.5))
    keys = [
        key
        for batch in data.heldout_batches(data.heldout_loader())
        for row in batch.keys
        for key in row
    ]
    assert len(keys) == 14


def test_forecast_and_lineage_cover_all_sets(folders, tmp_path, capsys):
    config = config_of(folders, tmp_path)
    cluster = Cluster(gpus=1, gpus_per_node=8, memory_gb=None, tflops=None, mfu=0.4)
    counted = forecast_run(config, cluster=cluster)
    assert counted["epoch"]["samples"] == 32
    stored = sum(path.stat().st_size for path in folders.glob("*/train-*.tar"))
    assert 0 < counted["reading"]["bytes_per_epoch"] < stored
    shard_sets, _, data = plan_run(config, num_processes=1)
    print_step(shard_sets, data, step=1, num_processes=1, rank=None)
    printed = capsys.readouterr().out
    batches = list(run_data(config).read_step())
    read = Counter(key for batch in batches for row in batch.keys for key in row)
    assert Counter(line.split("\t")[3] for line in printed.splitlines()[1:]) == read


def test_sets_of_two_templates_are_refused_by_name(folders, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folders / "second", other)
    file = other / "manifest.json"
    file.chmod(0o644)
    manifest = json.loads(file.read_text())
    manifest["digests"]["template"] = "0" * 64
    file.write_text(json.dumps(manifest | {"sha256": manifest_digest(manifest)}))
    run_file = write_run(tmp_path, shards=folders / "first")
    both = f'data.shards=[{{path="{folders / "first"}"}}, {{path="{other}"}}]'
    with pytest.raises(ValueError, match="cannot be read together: their template digests"):
        open_run_shards(read_run(run_file, overrides=[both]).data, storage=StorageConfig())
