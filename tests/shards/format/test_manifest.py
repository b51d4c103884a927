"""A published set: complete or refused, its index and its samples read back as written."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from vchat.base.files import sha256_file
from vchat.shards.format import index as index_module
from vchat.shards.format import publish as publish_module
from vchat.shards.format.index import sample_bytes, statistics
from vchat.shards.format.manifest import index_digest, manifest_digest
from vchat.shards.format.open_shards import open_shards
from vchat.shards.format.publish import describe_shard, publish
from vchat.shards.format.sample import encode_sample
from vchat.shards.format.writer import write_shard
from vchat.shards.storage.store import ShardError
from vchat.shards.text import tokenizer as tokenizer_module
from vchat.shards.text.tokenizer import TextTokenizer
from vchat_testing.toy import toy_manifest, toy_sample, toy_shards, toy_tokenizer


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Seven train and two eval samples, with 0, 1, 2, 0, ... images."""
    folder = tmp_path_factory.mktemp("published") / "set"
    return toy_shards(folder, num_samples=7, images_per_sample=lambda i: i % 3)


@pytest.fixture
def copied(published, tmp_path):
    """The same set in a folder that a test may spoil."""
    return shutil.copytree(published.folder, tmp_path / "set")


def rewrite(folder, change) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    content["sha256"] = manifest_digest(content)
    path.write_text(json.dumps(content))


def test_samples_read_back_as_they_were_written(published, tmp_path):
    tokenizer = published.tokenizer()
    rows = published.index().to_pylist()
    assert [row["key"] for row in rows] == [f"{('toy', 'toy2')[i % 2]}/{i}" for i in range(9)]
    for i, row in enumerate(rows):
        split, source = ("train" if i < 7 else "eval"), ("toy", "toy2")[i % 2]
        written = toy_sample(i, tokenizer, num_images=i % 3, split=split, source=source)
        assert encode_sample(published.read_sample(i)) == encode_sample(written)
        assert encode_sample(published.read_sample(row)) == encode_sample(written)


def test_the_index_is_in_shard_then_position_order_and_splits_partition_it(published):
    index = published.index()
    assert index["shard"].to_pylist() == [0] * 5 + [1] * 2 + [2] * 2
    assert index["stem"].to_pylist() == [f"{i:09d}" for i in (0, 1, 2, 3, 4, 5, 6, 0, 1)]
    parts = [published.index(split) for split in published.splits]
    assert published.splits == ["train", "eval"]
    assert [part.num_rows for part in parts] == [7, 2]


def test_the_manifest_states_what_the_files_are(published):
    manifest = published.manifest
    for shard in manifest["shards"]:
        path = published.folder / shard["name"]
        assert (shard["bytes"], shard["sha256"]) == (path.stat().st_size, sha256_file(path))
    assert [shard["samples"] for shard in manifest["shards"]] == [5, 2, 2]
    assert manifest["digests"]["index"] == index_digest(manifest["index"])
    assert manifest["digests"]["tokenizer"] == published.tokenizer().fingerprint
    assert manifest["digests"]["inputs"] == toy_manifest()["digests"]["inputs"]
    assert manifest["format_version"] == 2


def test_totals_and_sources_count_the_samples(published):
    samples = [published.read_sample(i) for i in range(9)]
    totals = {
        "samples": 9,
        "records": 9,
        "rounds": sum(len(sample.rounds) for sample in samples),
        "images": sum(len(sample.images) for sample in samples),
        "text_tokens": sum(len(sample.ids) - len(sample.images) for sample in samples),
        "supervised_tokens": sum(int(sample.supervised.sum()) for sample in samples),
        "bytes": sum(len(data) for sample in samples for _, data in encode_sample(sample)),
    }
    assert published.manifest["totals"] == totals
    sources = published.manifest["sources"]
    assert list(sources) == ["toy", "toy2"]
    for name, total in totals.items():
        assert sources["toy"][name] + sources["toy2"][name] == total


def test_sample_bytes_are_those_of_its_members(published):
    found = sample_bytes(published.index())
    expected = [sum(len(d) for _, d in encode_sample(published.read_sample(i))) for i in range(9)]
    assert found.tolist() == expected
    assert found.dtype == np.int64


def test_statistics_of_no_rows_are_no_groups(published):
    empty = published.index().slice(0, 0)
    assert statistics(empty, by=["source"]) == []


def test_publishing_again_gives_the_same_bytes(published, tmp_path):
    again = toy_shards(tmp_path / "again", num_samples=7, images_per_sample=lambda i: i % 3)
    for path in sorted(published.folder.rglob("*")):
        if path.is_file():
            twin = again.folder / path.relative_to(published.folder)
            assert twin.read_bytes() == path.read_bytes(), path.name


def test_the_manifest_is_written_last(tmp_path, monkeypatch):
    tokenizer = TextTokenizer.load(toy_tokenizer(tmp_path / "tokenizer"))
    path = tmp_path / "set" / "train-000000.tar"
    rows = write_shard(path, [toy_sample(0, tokenizer)], first_number=0)
    written: list[str] = []
    for module in (index_module, tokenizer_module, publish_module):
        real = module.write_atomically

        def note(path: Path, real: Callable[[Path], Any] = real) -> Any:
            written.append(path.name)
            return real(path)

        monkeypatch.setattr(module, "write_atomically", note)
    publish(
        path.parent,
        manifest_without_shards=toy_manifest(),
        shards=[describe_shard(path, split="train", rows=rows)],
        tokenizer=tokenizer,
    )
    assert {"part-00000.parquet", "tokenizer.json"} < set(written)
    assert written[-1] == "manifest.json"


def test_a_large_index_is_written_in_parts_and_read_as_one(published, tmp_path, monkeypatch):
    monkeypatch.setattr(index_module, "ROWS_PER_PART", 4)
    parted = toy_shards(tmp_path / "set", num_samples=7, images_per_sample=lambda i: i % 3)
    assert [part["rows"] for part in parted.manifest["index"]] == [4, 4, 1]
    assert parted.index().to_pylist() == published.index().to_pylist()


def test_plain_arrow_reads_the_index(published):
    table = pq.read_table(published.folder / "index" / "part-00000.parquet")
    assert str(table.schema.field("source").type).startswith("dictionary<values=string")
    assert table["num_images"].to_pylist() == [0, 1, 2, 0, 1, 2, 0, 1, 2]


def test_a_shard_set_travels_to_other_processes(published):
    again = pickle.loads(pickle.dumps(published))  # noqa: S301
    assert again.read_sample(3).key == published.read_sample(3).key


def test_an_unfinished_build_is_refused(copied):
    (copied / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"no manifest\.json in .*: the build is not finished"):
        open_shards(copied)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no folder .*nowhere"):
        open_shards(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m: m.update(format_version=3), "format_version 3; wanted 1 or 2"),
        (lambda m: m.pop("format_version"), "format_version None; wanted 1"),
        (lambda m: [m.pop("shards"), m.pop("totals")], "lacks totals, shards"),
    ],
)
def test_a_manifest_of_another_form_is_refused(copied, change, message):
    rewrite(copied, change)
    with pytest.raises(ValueError, match=message):
        open_shards(copied)


def test_a_manifest_of_version_1_has_no_digest_and_is_read(copied):
    rewrite(copied, lambda m: m.update(format_version=1))
    path = copied / "manifest.json"
    content = json.loads(path.read_text())
    del content["sha256"]
    path.write_text(json.dumps(content))
    assert open_shards(copied).index().num_rows == 9


def test_a_manifest_with_one_changed_value_is_refused(copied):
    path = copied / "manifest.json"
    path.write_text(
        path.read_text().replace('"licences": {\n  "toy": "none"', '"licences": {\n  "toy": "nine"')
    )
    with pytest.raises(ValueError, match=r"manifest\.json was changed: its sha256 is"):
        open_shards(copied)


def test_a_manifest_that_is_not_json_is_refused(copied):
    (copied / "manifest.json").write_text('{"format_version": 1,')
    with pytest.raises(ValueError, match=r"manifest\.json is not JSON"):
        open_shards(copied)


def test_another_tokenizer_is_refused_naming_both_fingerprints(copied, tmp_path):
    other = TextTokenizer.load(toy_tokenizer(tmp_path / "other", begin=None))
    ours = open_shards(copied).manifest["digests"]["tokenizer"]
    other.save(copied / "tokenizer")
    with pytest.raises(ValueError, match=rf"states fingerprint {ours}.*has {other.fingerprint}"):
        open_shards(copied).tokenizer()


def test_a_template_that_renders_differently_is_refused_naming_both_digests(copied):
    ours = open_shards(copied).template.digest
    rewrite(copied, lambda m: m["template"].update(system="Be brief."))
    with pytest.raises(ValueError, match=rf"another template 'visualchat': its digest is {ours}"):
        _ = open_shards(copied).template


def test_an_unknown_split_names_those_there_are(published):
    with pytest.raises(ValueError, match=r"no split 'evel' in .*; it has train, eval"):
        published.index("evel")


def test_a_sample_number_beyond_the_set_is_refused(published):
    with pytest.raises(ValueError, match=r"no sample 9 in .*; it has 9"):
        published.read_sample(9)


def test_a_flipped_bit_is_found_and_located(copied):
    shards = open_shards(copied)
    row = shards.index().to_pylist()[2]
    member = next(member for member in row["members"] if member["name"] == "1.jpg")
    path = copied / "train-000000.tar"
    data = bytearray(path.read_bytes())
    data[member["offset"] + 40] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        ShardError, match=r"train-000000\.tar at byte \d+ \(sample toy/2 of source toy\): 1\.jpg"
    ):
        shards.read_sample(2)
    assert shards.read_sample(1).key == "toy2/1"


def test_a_truncated_or_missing_shard_is_a_located_error(copied):
    shards = open_shards(copied)
    path = copied / "eval-000000.tar"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ShardError, match=r"eval-000000\.tar at byte .*toy2/7.*truncated"):
        shards.read_sample(7)
    path.unlink()
    with pytest.raises(ShardError, match=r"eval-000000\.tar at byte .*No such file"):
        shards.read_sample(8)


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
