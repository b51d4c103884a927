"""Shard sets that the tests of this room share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vchat.shards.format.shard_set import ShardSet
from vchat_testing.toy import toy_shards


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Seven train and two eval samples, with 0, 1, 2, 0, ... images."""
    folder = tmp_path_factory.mktemp("published") / "set"
    return toy_shards(folder, num_samples=7, images_per_sample=lambda i: i % 3)


@pytest.fixture
def copied(published: ShardSet, tmp_path: Path) -> Path:
    """The same set in a folder that a test may spoil."""
    return shutil.copytree(published.folder, tmp_path / "set")
