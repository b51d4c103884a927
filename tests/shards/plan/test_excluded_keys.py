"""The keys that each epoch leaves out are kept by epoch, and those of no sample are named."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vchat.shards.format.open_shards import open_shards
from vchat.shards.plan.cursor import PlanCursor
from vchat.shards.plan.epoch import plan_epoch
from vchat.shards.plan.excluded_keys import (
    ExcludeHistory,
    describe_unknown_keys,
    find_unknown_keys,
    read_keys,
)
from vchat_testing.toy_plans import arguments, regular_index
from vchat_testing.training_runs import training_shards


def test_a_list_holds_from_its_epoch_until_the_next_change():
    history = ExcludeHistory(lists=((0, ("a",)),)).change_from(2, ("b",)).change_from(5, ())
    assert [history.keys_of(epoch) for epoch in range(7)] == [
        ("a",),
        ("a",),
        ("b",),
        ("b",),
        ("b",),
        (),
        (),
    ]


def test_a_change_replaces_all_later_ones():
    history = ExcludeHistory(lists=((0, ("a",)), (2, ("b",)), (4, ("c",))))
    assert history.change_from(2, ("d",)).lists == ((0, ("a",)), (2, ("d",)))
    assert history.change_from(3, ("b",)).lists == ((0, ("a",)), (2, ("b",)))
    assert history.change_from(0, ("e",)).lists == ((0, ("e",)),)


def test_a_history_survives_json():
    history = ExcludeHistory(lists=((1, ()), (3, ("a/1", "a/2"))))
    written = json.loads(json.dumps(history.as_json()))
    assert ExcludeHistory.from_json(written, name="exclude.json") == history


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"lists": []},
        {"lists": [{"from_epoch": "0", "keys": []}]},
        {"lists": [{"from_epoch": 0, "keys": [1]}]},
        {"lists": [{"from_epoch": 2, "keys": []}, {"from_epoch": 1, "keys": []}]},
        {"lists": 3},
    ],
)
def test_another_file_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"^exclude\.json: "):
        ExcludeHistory.from_json(value, name="exclude.json")


def test_each_epoch_is_planned_with_its_own_list():
    index = regular_index()
    keys = [index.keys[number] for number in range(3)]
    history = ExcludeHistory(lists=((0, (keys[0],)), (1, (keys[1], keys[2])), (3, ())))
    cursor = PlanCursor(
        index,
        arguments(),
        rows_per_step=4,
        rows_per_micro_batch=2,
        rank=0,
        world_size=1,
        plan_folder=None,
        exclude_history=history,
    )
    for epoch in (3, 0, 2, 1):
        wanted = replace(arguments(epoch=epoch), exclude=history.keys_of(epoch))
        assert cursor.plan(epoch).digest == plan_epoch(index, wanted).digest


def test_keys_of_no_sample_of_any_split_are_found_and_named(tmp_path: Path):
    shard_set = open_shards(training_shards(tmp_path / "shards", num_train=3))
    eval_key = shard_set.index("eval")["key"][0].as_py()
    keys = ("toy/none", eval_key, "toy/train/1", *(f"toy/z{n:02}" for n in range(12)))
    unknown = find_unknown_keys(keys, shard_sets=[shard_set])
    assert unknown == ["toy/none", *(f"toy/z{n:02}" for n in range(12))]
    line = describe_unknown_keys(unknown, num_keys=len(keys), name="data.exclude = keys.txt")
    assert line.startswith(
        "data.exclude = keys.txt: 13 of 15 keys are of no sample in these shards: toy/none, toy/z00"
    )
    assert line.endswith("toy/z08 and 3 more")
    assert find_unknown_keys((), shard_sets=[shard_set]) == []


def test_keys_are_read_sorted_each_once_from_text_and_parquet(tmp_path: Path):
    (tmp_path / "keys.txt").write_bytes(b"b/2\r\na/1\n\nb/2\n")
    pq.write_table(pa.table({"key": ["b/2", None, "a/1"]}), tmp_path / "keys.parquet")
    for name in ("keys.txt", "keys.parquet"):
        assert read_keys(tmp_path / name) == ("a/1", "b/2")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("keys.txt", b"a/1\n\xff\xfe", r"keys\.txt is no text in UTF-8"),
        ("keys.parquet", b"a/1\n", r"keys\.parquet is no Parquet file"),
        ("keys.parquet", {"id": ["a"]}, r"keys\.parquet has columns id, wanted one called key"),
        ("keys.parquet", {"key": [1, 2]}, r"keys\.parquet has keys of type int64, wanted texts"),
    ],
)
def test_another_list_is_refused_by_name(tmp_path: Path, name, content, message):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        pq.write_table(pa.table(content), tmp_path / name)
    with pytest.raises(ValueError, match=message) as error:
        read_keys(tmp_path / name)
    assert "\n" not in str(error.value)
