"""The index: its order and parts, its statistics, and files that are not as the manifest says."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vchat.base.files import sha256_file
from vchat.shards.format import index as index_module
from vchat.shards.format.index import sample_bytes, statistics, write_index
from vchat.shards.format.manifest import manifest_digest
from vchat.shards.format.open_shards import open_shards
from vchat.shards.format.sample import encode_sample
from vchat_testing.toy import toy_shards


def test_the_index_is_in_the_order_of_shards_and_splits_partition_it(published):
    index = published.index()
    assert index["shard"].to_pylist() == [0] * 5 + [1] * 2 + [2] * 2
    assert index["stem"].to_pylist() == [f"{i:09d}" for i in range(9)]
    parts = [published.index(split) for split in published.splits]
    assert published.splits == ["train", "eval"]
    assert [part.num_rows for part in parts] == [7, 2]


def test_sample_bytes_are_those_of_its_members(published):
    found = sample_bytes(published.index())
    expected = [sum(len(d) for _, d in encode_sample(published.read_sample(i))) for i in range(9)]
    assert found.tolist() == expected
    assert found.dtype == np.int64


def test_statistics_of_no_rows_are_no_groups(published):
    empty = published.index().slice(0, 0)
    assert statistics(empty, by=["source"]) == []


def test_a_large_index_is_written_in_parts_and_read_as_one(published, tmp_path, monkeypatch):
    monkeypatch.setattr(index_module, "ROWS_PER_PART", 4)
    parted = toy_shards(tmp_path / "set", num_samples=7, images_per_sample=lambda i: i % 3)
    assert [part["rows"] for part in parted.manifest["index"]] == [4, 4, 1]
    assert parted.index().to_pylist() == published.index().to_pylist()


def test_plain_arrow_reads_the_index(published):
    table = pq.read_table(published.folder / "index" / "part-00000.parquet")
    assert str(table.schema.field("source").type).startswith("dictionary<values=string")
    assert table["num_images"].to_pylist() == [0, 1, 2, 0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda path: path.unlink(), "no index file .*part-00000.parquet, which manifest"),
        (
            lambda path: path.write_bytes(b"junk"),
            "part-00000.parquet has sha256 .*, manifest.json says",
        ),
        (
            lambda path: pq.write_table(pq.read_table(path).slice(1), path),
            "part-00000.parquet has sha256 .*, manifest.json says",
        ),
    ],
)
def test_a_spoilt_index_is_refused(copied, spoil, message):
    spoil(copied / "index" / "part-00000.parquet")
    with pytest.raises(ValueError, match=message):
        open_shards(copied).index()


def replace_index(folder: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the index of a set as another writer would: with its digests in the manifest."""
    path = folder / "index" / "part-00000.parquet"
    pq.write_table(change(pq.read_table(path)), path)
    content = json.loads((folder / "manifest.json").read_text())
    content["index"][0]["sha256"] = sha256_file(path)
    content["sha256"] = manifest_digest(content)
    (folder / "manifest.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.drop_columns(["stem"]), "the column 'stem' is missing, wanted string"),
        (
            lambda t: t.set_column(3, "text_tokens", t["text_tokens"].cast(pa.int64())),
            "the column 'text_tokens' is int64, wanted int32",
        ),
    ],
    ids=["missing", "another type"],
)
def test_an_index_of_other_columns_is_refused_when_read_and_when_written(
    copied, tmp_path, change, message
):
    written = change(open_shards(copied).index())
    with pytest.raises(ValueError, match=message):
        list(write_index(tmp_path / "index", written))
    replace_index(copied, change)
    with pytest.raises(ValueError, match=rf"part-00000\.parquet: {message}"):
        open_shards(copied).index()


def test_columns_that_are_not_known_are_ignored(copied):
    replace_index(copied, lambda t: t.append_column("more", pa.array(range(t.num_rows))))
    assert open_shards(copied).read_sample(3).key == "toy2/3"
