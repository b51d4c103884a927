"""Publishing: the manifest comes last and is true; equal sets give equal bytes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vchat.base.files import sha256_file
from vchat.shards.format import index as index_module
from vchat.shards.format import publish as publish_module
from vchat.shards.format.manifest import index_digest
from vchat.shards.format.publish import describe_shard, publish
from vchat.shards.format.sample import encode_sample
from vchat.shards.format.writer import write_shard
from vchat.shards.text import tokenizer as tokenizer_module
from vchat.shards.text.tokenizer import TextTokenizer
from vchat_testing.toy import toy_manifest, toy_sample, toy_shards, toy_tokenizer


def test_the_manifest_states_what_the_files_are(published):
    manifest = published.manifest
    for shard in manifest["shards"]:
        path = published.folder / shard["name"]
        assert (shard["bytes"], shard["sha256"]) == (path.stat().st_size, sha256_file(path))
    assert [shard["samples"] for shard in manifest["shards"]] == [5, 2, 2]
    assert manifest["digests"]["index"] == index_digest(manifest["index"])
    assert manifest["digests"]["tokenizer"] == published.tokenizer().fingerprint
    assert manifest["digests"]["inputs"] == toy_manifest()["digests"]["inputs"]
    assert manifest["format_version"] == 3


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


def test_publishing_again_gives_the_same_bytes(published, tmp_path):
    again = toy_shards(tmp_path / "again", num_samples=7, images_per_sample=lambda i: i % 3)
    for path in sorted(published.folder.rglob("*")):
        if path.is_file():
            twin = again.folder / path.relative_to(published.folder)
            assert twin.read_bytes() == path.read_bytes(), path.name


def test_the_manifest_states_the_digest_of_every_file_of_the_tokenizer(published):
    folder = published.folder / "tokenizer"
    found = {path.name: sha256_file(path) for path in folder.iterdir()}
    assert published.manifest["tokenizer"]["files"] == found
    assert len(found) == 3


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
