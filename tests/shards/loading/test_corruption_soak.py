"""200 random corruptions of a shard set: each is found, and none delivers a wrong sample."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from vchat.shards.format.open_shards import open_shards
from vchat.shards.format.shard_set import ShardSet
from vchat.shards.inspect.verification import find_defects
from vchat.shards.loading.collate import Batch
from vchat_testing.toy import toy_shards
from vchat_testing.toy_loading import are_equal, first_epoch, toy_loader

CORRUPTIONS = 200


@pytest.fixture(scope="module")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return toy_shards(tmp_path_factory.mktemp("whole") / "set", num_samples=20, samples_per_shard=5)


@pytest.fixture(scope="module")
def other_build(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """A set of as many samples of the same names, in other shards."""
    folder = tmp_path_factory.mktemp("other") / "set"
    return toy_shards(folder, num_samples=20, samples_per_shard=5, images_per_sample=1)


def bit_flip(folder: Path, rng: random.Random, *, among: str) -> str:
    path = rng.choice(sorted(folder.glob(among)))
    data = bytearray(path.read_bytes())
    place, bit = rng.randrange(len(data)), rng.randrange(8)
    data[place] ^= 1 << bit
    path.chmod(0o644)
    path.write_bytes(data)
    return f"bit {bit} of byte {place} of {path.name}"


def truncation(folder: Path, rng: random.Random, *, among: str) -> str:
    path = rng.choice(sorted(folder.glob(among)))
    data = path.read_bytes()
    kept = rng.randrange(len(data))
    path.chmod(0o644)
    path.write_bytes(data[:kept])
    return f"{path.name} cut to {kept} of {len(data)} bytes"


def deletion(folder: Path, rng: random.Random) -> str:
    path = rng.choice(
        sorted([*folder.glob("*.tar"), *folder.glob("index/*"), *folder.glob("*.json")])
    )
    path.unlink()
    return f"{path.name} deleted"


def swap(folder: Path, rng: random.Random) -> str:
    first, second = rng.sample(sorted(folder.glob("*.tar")), 2)
    aside = folder / "aside"
    first.rename(aside)
    second.rename(first)
    aside.rename(second)
    return f"{first.name} and {second.name} swapped"


def stale(folder: Path, rng: random.Random, *, other: Path, name: str) -> str:
    shutil.copy(other / name, folder / name)
    return f"{name} of another build"


def corruptions(other: Path) -> list[Callable[[Path, random.Random], str]]:
    """Return the kinds of damage; each damages a copy at random and says what it did."""
    files = ["*.tar", "index/*.parquet", "manifest.json"]
    return [
        *(lambda folder, rng, among=among: bit_flip(folder, rng, among=among) for among in files),
        *(lambda folder, rng, among=among: truncation(folder, rng, among=among) for among in files),
        deletion,
        swap,
        *(
            lambda folder, rng, name=name: stale(folder, rng, other=other, name=name)
            for name in ("index/part-00000.parquet", "manifest.json", "train-000001.tar")
        ),
    ]


def is_found(folder: Path) -> bool:
    """Whether `vchat-shards verify` would say that the set is damaged."""
    try:
        return any(True for _ in find_defects(open_shards(folder), shard_done=lambda done: None))
    except ValueError:
        return True


def is_refused_or_intact(folder: Path, wanted: list[Batch]) -> bool:
    """Whether reading an epoch ends in an error that says so, or gives the right samples."""
    try:
        found = first_epoch(toy_loader(open_shards(folder)))
    except ValueError:  # ShardError among them
        return True
    return are_equal(found, wanted)


@pytest.mark.soak
def test_every_one_of_200_random_corruptions_is_found_and_delivers_no_wrong_sample(
    shard_set: ShardSet, other_build: ShardSet, tmp_path: Path
) -> None:
    wanted = first_epoch(toy_loader(shard_set))
    assert not is_found(shard_set.folder)
    kinds = corruptions(other_build.folder)
    missed, wrong = [], []
    for number in range(CORRUPTIONS):
        folder = Path(shutil.copytree(shard_set.folder, tmp_path / str(number)))
        what = kinds[number % len(kinds)](folder, random.Random(number))
        if not is_found(folder):
            missed.append(f"{number}: {what}")
        if not is_refused_or_intact(folder, wanted):
            wrong.append(f"{number}: {what}")
        shutil.rmtree(folder)
    assert not missed
    assert not wrong
