"""Opening a set, in a folder or behind a URL: complete or refused."""

import json
from pathlib import Path

import pytest

from vchat.shards.format.manifest import manifest_digest
from vchat.shards.format.open_shards import open_remote_shards, open_shards
from vchat.shards.format.shard_set import ShardSet
from vchat.shards.storage.config import StorageConfig
from vchat_testing.range_server import FolderServer, serve_folder
from vchat_testing.toy import toy_shards
from vchat_testing.toy_loading import first_epoch, keys_of, toy_loader


@pytest.fixture(scope="module")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return toy_shards(tmp_path_factory.mktemp("remote") / "set", num_samples=12)


@pytest.fixture
def served(shard_set: ShardSet):  # type: ignore[no-untyped-def]
    with serve_folder(shard_set.folder) as served:
        yield served


def test_an_unfinished_build_is_refused(copied):
    (copied / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"no manifest\.json in .*: the build is not finished"):
        open_shards(copied)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no folder .*nowhere"):
        open_shards(tmp_path / "nowhere")


def test_a_set_behind_a_url_is_read_like_a_folder(
    shard_set: ShardSet, served: FolderServer, tmp_path: Path
) -> None:
    remote = open_remote_shards(served.url, copies=tmp_path)
    assert remote.index("train").equals(shard_set.index("train"))
    assert remote.tokenizer().fingerprint == shard_set.tokenizer().fingerprint
    assert keys_of(first_epoch(toy_loader(remote))) == keys_of(first_epoch(toy_loader(shard_set)))
    asked = served.requests["/tokenizer/tokenizer.json"]
    open_remote_shards(served.url, copies=tmp_path)
    assert served.requests["/tokenizer/tokenizer.json"] == asked


def test_a_manifest_cannot_write_outside_the_copies(shard_set: ShardSet, tmp_path: Path) -> None:
    hostile = json.loads((shard_set.folder / "manifest.json").read_text())
    hostile["index"][0]["name"] = "../../../evil"
    hostile["sha256"] = manifest_digest(hostile)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "manifest.json").write_text(json.dumps(hostile))
    with (
        serve_folder(tmp_path / "set") as served,
        pytest.raises(ValueError, match=r"index\[0\].name is '../../../evil', wanted part-"),
    ):
        open_remote_shards(served.url, copies=tmp_path / "copies")


def test_a_cache_that_is_a_file_is_an_error(served: FolderServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"storage.cache = .*file is a file, wanted a folder"):
        open_shards(served.url, storage=StorageConfig(cache=tmp_path / "file"))
