"""For any reader, a member with a wrong checksum is an error and invalidates the shard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vchat.shards.format.shard_set import ShardSet
from vchat.shards.loading.fetch import SampleFetcher
from vchat.shards.plan.joined_sets import join_sets
from vchat.shards.storage.store import LocalStore, ShardError
from vchat_testing.toy import toy_shards


def read(shards: ShardSet, number: int) -> object:
    return shards.read_sample(number)


def fetch(shards: ShardSet, number: int) -> object:
    return SampleFetcher(join_sets([shards], split="train")).fetch(number)


@pytest.mark.parametrize("reader", [read, fetch])
def test_a_wrong_byte_invalidates_the_shard_and_names_the_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: Callable[[ShardSet, int], object]
) -> None:
    shards = toy_shards(tmp_path / "set", num_samples=4, samples_per_shard=4)
    entry = shards.index("train").slice(2, 1).to_pylist()[0]
    member = next(one for one in entry["members"] if one["name"] == "mask.npy")
    path = shards.folder / shards.shard_name(entry)
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[member["offset"] + member["size"] - 1] ^= 1
    path.write_bytes(data)
    invalidated: list[str] = []
    monkeypatch.setattr(LocalStore, "invalidate", lambda _, name: invalidated.append(name))
    reader(shards, 1)
    assert invalidated == []
    with pytest.raises(ShardError, match=r"mask\.npy has checksum .*, the index says") as error:
        reader(shards, 2)
    assert set(invalidated) == {path.name}
    assert (error.value.shard, error.value.key) == (path.name, entry["key"])
    assert error.value.offset == member["offset"]
