"""Which samples a step read, and which steps read a sample, agree with what the loader delivers."""

import json
from dataclasses import replace

import pytest

import vchat_testing.toy as toy
from vchat.base.cli import run_command
from vchat.shards.format.open_shards import open_shards
from vchat.shards.format.shard_set import ShardSet
from vchat.shards.pixels.grid import ImageGrid
from vchat.shards.text.tokenizer import TextTokenizer
from vchat.train.commands.main import group
from vchat.train.commands.where import print_sample, print_step
from vchat.train.config.model import ModelSizes
from vchat.train.config.run import read_run
from vchat.train.engine.processes import RankShare
from vchat.train.forecast.forecast import plan_run
from vchat.train.run.data import RunData
from vchat.train.where.lineage import find_steps_of_sample, list_step_samples
from vchat_testing.toy import toy_tokenizer
from vchat_testing.training_runs import prepare_deepspeed, training_shards, write_run

PROCESSES = 2


@pytest.fixture(scope="module", autouse=True)
def _quiet_deepspeed():
    """Without this its import, by whichever test comes first, writes to standard output."""
    prepare_deepspeed()


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lineage")
    run_file = write_run(folder, shards=training_shards(folder / "shards", num_train=12))
    return read_run(run_file), open_shards(folder / "shards")


def run_data(config, shard_set, *, rank: int = 0) -> RunData:
    return RunData(
        [shard_set],
        config.data,
        config.batch,
        config.run,
        sizes=ModelSizes(image_size=32, grid=ImageGrid(positions_per_input=5)),
        share=RankShare(rank=rank, world_size=PROCESSES),
    )


def planned(config) -> tuple[list[ShardSet], RunData]:
    shard_sets, _, data = plan_run(config, num_processes=PROCESSES)
    return shard_sets, data


def read_keys(config, shard_set, *, steps: int) -> dict[int, dict[int, list[str]]]:
    """Step -> rank -> keys, as the loaders of all ranks really yield them."""
    keys: dict[int, dict[int, list[str]]] = {step: {} for step in range(1, steps + 1)}
    for rank in range(PROCESSES):
        loader = run_data(config, shard_set, rank=rank).loader
        batches = iter(loader)
        for step in keys:
            batch_keys = [next(batches).keys for _ in range(loader.micro_batches_per_step)]
            keys[step][rank] = [key for rows in batch_keys for row in rows for key in row]
    return keys


def test_a_step_has_the_samples_that_the_ranks_read(opened):
    config, shard_set = opened
    data = run_data(config, shard_set)
    for step, of_rank in read_keys(config, shard_set, steps=7).items():
        places = list(list_step_samples(data, step=step, num_processes=PROCESSES))
        for rank, keys in of_rank.items():
            assert [place.key for place in places if place.rank == rank] == keys


def test_the_steps_of_a_sample_are_those_that_hold_it(opened):
    config, shard_set = opened
    data = run_data(config, shard_set)
    key = "toy/train/3"
    holding = [
        step
        for step in range(1, 13)
        if any(p.key == key for p in list_step_samples(data, step=step, num_processes=1))
    ]
    keys = data.loader.index.keys
    number = next(i for i in range(len(keys)) if keys[i] == key)
    assert find_steps_of_sample(data, number=number) == holding
    assert len(holding) >= 2


def test_a_step_or_a_sample_that_does_not_exist_is_named(opened):
    config, shard_set = opened
    data = run_data(config, shard_set)
    with pytest.raises(ValueError, match="step 13: the run has steps 1 to 12"):
        list(list_step_samples(data, step=13, num_processes=1))
    with pytest.raises(ValueError, match="toy/none: no sample or record of split train has this"):
        print_sample(*planned(config), key="toy/none")
    with pytest.raises(ValueError, match="step 1 has no sample of rank 7 on 2 processes"):
        print_step(*planned(config), step=1, num_processes=2, rank=7)


def test_a_row_of_a_rank_is_printed_with_records_and_files(opened, capsys):
    config, shard_set = opened
    data = run_data(config, shard_set)
    places = list(list_step_samples(data, step=2, num_processes=PROCESSES))
    asked = next(place for place in places if place.rank == 1)
    print_step(*planned(config), step=2, num_processes=PROCESSES, rank=1, row=asked.row)
    title, *lines = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert title == ["rank", "micro-batch", "row", "sample", "record", "id", "file"]
    wanted = [p.key for p in places if (p.rank, p.row) == (1, asked.row)]
    assert [line[3] for line in lines] == wanted
    assert all(line[0] == "1" and line[3] == line[4] and line[6] == "toy.json" for line in lines)


def test_a_step_is_dealt_to_as_many_processes_as_the_log_says(tmp_path, capsys, monkeypatch):
    run_file = write_run(tmp_path, shards=training_shards(tmp_path / "shards", num_train=12))
    (tmp_path / "out").mkdir()
    made = [{"step": 2, "processes": 2}, {"step": 4, "processes": 1}]  # resumed on fewer
    (tmp_path / "out" / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in made))
    for step, ranks in ((1, {"0", "1"}), (2, {"0", "1"}), (3, {"0"}), (4, {"0"}), (5, {"0"})):
        command = ["vchat-train", "where", str(run_file), "--step", str(step)]
        monkeypatch.setattr("sys.argv", command)
        with pytest.raises(SystemExit):
            run_command(group)
        lines = capsys.readouterr().out.splitlines()[1:]
        assert {line.split("\t")[0] for line in lines} == ranks


def test_a_record_joined_into_a_dialogue_is_found_in_it(tmp_path, capsys):
    tokenizer = TextTokenizer.load(toy_tokenizer(tmp_path / "tokenizer"))
    first, second = (
        toy.toy_sample(n, tokenizer, num_images=1, image_size=(32, 32)) for n in (1, 2)
    )
    later = replace(second.records[0], first_round=1)
    rounds = (*first.rounds, replace(first.rounds[0], images=()))
    joined = replace(first, records=(*first.records, later), rounds=rounds)
    folder = tmp_path / "shards"
    toy.publish_samples(folder, [joined], tokenizer=tokenizer)
    config = read_run(write_run(tmp_path, shards=folder), overrides=["run.steps=2"])
    print_sample(*planned(config), key="toy/2")
    printed = capsys.readouterr()
    assert printed.out.split() == ["1", "2"]
    assert "record toy/2 is in sample toy/1" in printed.err
