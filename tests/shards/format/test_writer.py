"""A written shard: readable by tar and webdataset unaided, the same bytes each time, indexed."""

import hashlib
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import webdataset
import xxhash

from vchat.shards.format.index import ROW_SCHEMA
from vchat.shards.format.sample import RecordOrigin, Sample, StoredRound, encode_sample
from vchat.shards.format.writer import member_header, write_shard
from vchat.shards.text.tokenizer import TextTokenizer
from vchat_testing.toy import toy_image, toy_sample, toy_tokenizer

GOLDEN = "117273c8f6ca968265f5e44af779e54bdf9d1d99e22c94f5dc6ac51cf7cdc977"
"""SHA-256 of `literal_sample` in a shard. If it must change, so must FORMAT.md's version."""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return TextTokenizer.load(toy_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture
def samples(tokenizer):
    return [toy_sample(i, tokenizer, num_images=n) for i, n in enumerate((2, 0, 11))]


def literal_sample() -> Sample:
    """A sample whose bytes depend on no encoder and no tokenizer."""
    origin = RecordOrigin(
        key="toy/1", file="a.json", record_id="1", licence="none", first_round=0, num_rounds=1
    )
    return Sample(
        key="toy/1",
        source="toy",
        split="train",
        records=(origin,),
        rounds=(StoredRound(images=(0,), question="\u00e9?", answer="Yes."),),
        images=(replace(toy_image(0), data=b"\xff\xd8 not really\xff\xd9"),),
        ids=np.array([1, 5, 6, 2], dtype=np.int32),
        supervised=np.array([False, False, True, True]),
    )


def test_webdataset_reads_a_shard_unaided(tmp_path, samples):
    path = tmp_path / "train-000000.tar"
    write_shard(path, samples, first_number=7)
    found = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [sample["__key__"] for sample in found] == ["000000007", "000000008", "000000009"]
    for sample, written in zip(found, samples, strict=True):
        for name, data in encode_sample(written):
            assert sample[name] == data


def test_webdataset_decodes_a_shard_unaided(tmp_path, samples):
    path = tmp_path / "train-000000.tar"
    write_shard(path, samples, first_number=0)
    first = next(iter(webdataset.WebDataset(str(path), shardshuffle=False).decode("pil")))
    assert first["1.jpg"].size == (40, 32)
    assert first["json"]["rounds"][0]["question"] == "What color is square 0?"
    assert first["tokens.npy"].tolist() == samples[0].ids.tolist()


def test_every_tar_entry_has_fixed_time_owner_and_mode(tmp_path, samples):
    path = tmp_path / "train-000000.tar"
    write_shard(path, samples, first_number=0)
    with tarfile.open(path) as tar:
        entries = tar.getmembers()
        assert tar.extractfile("000000002.10.jpg").read() == samples[2].images[10].data
    assert len(entries) == sum(len(encode_sample(sample)) for sample in samples)
    assert {(e.mtime, e.uid, e.gid, e.uname, e.gname, e.mode, e.isreg()) for e in entries} == {
        (0, 0, 0, "vchat", "vchat", 0o444, True)
    }


def test_equal_samples_give_equal_bytes(tmp_path, samples):
    once, twice = tmp_path / "a" / "s.tar", tmp_path / "b" / "s.tar"
    rows = [write_shard(path, iter(samples), first_number=0) for path in (once, twice)]
    assert once.read_bytes() == twice.read_bytes()
    assert rows[0].equals(rows[1])


def test_the_bytes_of_a_shard_are_those_of_format_version_1(tmp_path):
    path = tmp_path / "s.tar"
    write_shard(path, [literal_sample()], first_number=0)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == GOLDEN


def test_index_rows_locate_every_member_and_state_its_checksum(tmp_path, samples):
    path = tmp_path / "s.tar"
    rows = write_shard(path, samples, first_number=0)
    assert rows.schema == ROW_SCHEMA
    data = path.read_bytes()
    for row, sample in zip(rows.to_pylist(), samples, strict=True):
        assert [member["name"] for member in row["members"]] == [
            n for n, _ in encode_sample(sample)
        ]
        for member, (_, expected) in zip(row["members"], encode_sample(sample), strict=True):
            assert data[member["offset"] : member["offset"] + member["size"]] == expected
            assert member["xxh3"] == xxhash.xxh3_64_intdigest(expected)


def test_index_rows_count_what_is_in_the_sample(tmp_path, samples):
    row = write_shard(tmp_path / "s.tar", samples, first_number=41).to_pylist()[0]
    sample = samples[0]
    del row["members"]
    assert row == {
        "key": "toy/0",
        "source": "toy",
        "split": "train",
        "text_tokens": len(sample.ids) - 2,
        "supervised_tokens": int(sample.supervised.sum()),
        "num_images": 2,
        "num_records": 1,
        "num_rounds": 2,
        "image_sizes": [40, 32, 40, 32],
        "image_original_sizes": [80, 64, 80, 64],
        "image_keys": ["toy:0", "toy:1"],
        "stem": "000000041",
    }


def test_a_shard_that_cannot_be_finished_leaves_nothing(tmp_path, samples):
    def failing():
        yield samples[0]
        raise OSError("disk on fire")

    with pytest.raises(OSError, match="disk on fire"):
        write_shard(tmp_path / "s.tar", failing(), first_number=0)
    assert list(tmp_path.iterdir()) == []


def test_a_shard_that_fails_leaves_the_older_one(tmp_path, samples):
    path = tmp_path / "s.tar"
    write_shard(path, samples, first_number=0)
    before = path.read_bytes()
    spoilt = replace(samples[0], images=(replace(samples[0].images[0], extension="exe"),) * 2)
    with pytest.raises(ValueError, match="extension 'exe'"):
        write_shard(path, [samples[1], spoilt], first_number=0)
    assert path.read_bytes() == before


def test_headers_are_those_of_tarfile():
    for name, size in (("000000007.json", 0), ("123456789.tokens.npy", 511), ("0.jpg", 8**11 - 1)):
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.uname, info.gname = size, 0o444, "vchat", "vchat"
        assert member_header(name, size) == info.tobuf(tarfile.USTAR_FORMAT)
