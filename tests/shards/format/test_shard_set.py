"""A shard set that is open: samples as they were written, or an error that names what is wrong."""

import json
import pickle

import pytest

from vchat.shards.format.manifest import manifest_digest
from vchat.shards.format.open_shards import open_shards
from vchat.shards.format.sample import encode_sample
from vchat.shards.storage.store import ShardError
from vchat.shards.text.tokenizer import TextTokenizer
from vchat_testing.toy import toy_sample, toy_tokenizer


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


def test_a_shard_set_travels_to_other_processes(published):
    again = pickle.loads(pickle.dumps(published))  # noqa: S301
    assert again.read_sample(3).key == published.read_sample(3).key


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
