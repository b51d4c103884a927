"""`vchat-shards plan` prints what the loader delivers."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from vchat.shards.commands.main import group
from vchat.shards.format.open_shards import open_shards
from vchat.shards.format.shard_set import ShardSet
from vchat.shards.loading import ranges
from vchat.shards.loading.loader import Loader
from vchat.shards.loading.rank_work import SampleSpans, rank_work
from vchat.shards.plan.arguments import PlanArguments, SourceShare
from vchat.shards.plan.excluded_keys import read_keys
from vchat.shards.plan.joined_sets import join_sets
from vchat.shards.storage.store import LocalStore
from vchat_testing.range_server import serve_folder
from vchat_testing.toy import toy_shards


@pytest.fixture(scope="module")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    folder = tmp_path_factory.mktemp("shards") / "set"
    return toy_shards(folder, num_samples=30, images_per_sample=lambda n: n % 4)


ARGUMENTS = PlanArguments(
    split="train",
    seed=0,
    epoch=0,
    tokens_per_row=400,
    images_per_row=400,
    positions_per_image=5,
    shuffle_window_shards=8,
    lanes=2,
)


def run(shard_set: ShardSet, *options: str) -> Result:
    fixed = ["--rows-per-step", "6", "--tokens-per-row", "400", "--positions-per-image", "5"]
    return CliRunner().invoke(group, ["plan", str(shard_set.folder), *fixed, *options])


def test_the_printed_plan_is_what_the_ranks_read(
    shard_set: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--ranks", "2", "--rows-per-micro-batch", "2", "--lanes", "2", "--json"]
    printed = json.loads(run(shard_set, *options).stdout)
    reads: list[int] = []
    read = LocalStore.read

    def counting(self: LocalStore, name: str, start: int, end: int) -> bytes:
        reads.append(end - start)
        return read(self, name, start, end)

    monkeypatch.setattr(LocalStore, "read", counting)
    for rank in (0, 1):
        reads.clear()
        loader = Loader(
            shard_set,
            ARGUMENTS,
            rows_per_step=6,
            rows_per_micro_batch=2,
            rank=rank,
            world_size=2,
            image_size=32,
            prefetch_rows=1,
        )
        assert loader.plan(0).digest == printed["digest"]
        num_batches = printed["steps"] * loader.micro_batches_per_step
        batches = list(itertools.islice(loader, num_batches))
        assert printed["per_rank"]["images"][rank] == sum(len(b.pixels) for b in batches)
        assert printed["per_rank"]["requests"][rank] == len(reads)
        assert printed["per_rank"]["bytes"][rank] == sum(reads)


def test_the_planned_requests_and_bytes_are_those_made_over_a_network(
    shard_set: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "REQUEST_BYTES", 3_000)
    monkeypatch.setattr(ranges, "LARGEST_RANGE", 9_000)
    with serve_folder(shard_set.folder) as served:
        far = open_shards(served.url)
        arguments = replace(ARGUMENTS, mix=(SourceShare(source="toy", weight=2.5),))
        topology = {"rows_per_step": 6, "rows_per_micro_batch": 2, "world_size": 2}
        for rank in (0, 1):
            loader = Loader(far, arguments, rank=rank, image_size=32, prefetch_rows=1, **topology)
            work = rank_work(
                loader.plan(0), spans=SampleSpans.of(join_sets([far], split="train")), **topology
            )
            assert work.requests[rank] < len(loader.plan(0).samples) / 2, "neighbours are joined"
            before = loader.metrics()
            num_batches = loader.plan(0).num_steps(6) * loader.micro_batches_per_step
            for _ in itertools.islice(loader, num_batches):
                pass
            made = loader.metrics()
            assert made["requests"] - before["requests"] == work.requests[rank]
            assert made["network_bytes"] - before["network_bytes"] == work.bytes[rank]


def test_the_table_names_sources_and_left_out_samples(shard_set: ShardSet, tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("toy/0\n\ntoy2/1\n")
    done = run(
        shard_set,
        "--mix",
        "toy2=0.5",
        "--exclude",
        str(keys),
        "--tail",
        "drop",
        "--rows-per-step",
        "4",
    )
    assert done.exit_code == 0
    assert "samples of toy2" in done.stdout
    assert "dropped:" in done.stdout
    printed = json.loads(
        run(shard_set, "--mix", "toy2=2,3", "--exclude", str(keys), "--json").stdout
    )
    assert printed["sources"] == {"toy": 14, "toy2": 3}


def test_keys_of_no_sample_are_counted_and_named(shard_set: ShardSet, tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("toy/0\ntoy/none\n")
    done = run(shard_set, "--exclude", str(keys), "--json")
    assert json.loads(done.stdout)["unknown_keys"] == ["toy/none"]
    assert "1 of 2 keys are of no sample in these shards: toy/none\n" in done.stderr


def test_wrong_options_are_wrong_use(shard_set: ShardSet) -> None:
    assert run(shard_set, "--mix", "toy").exit_code == 2
    failed = run(shard_set, "--mix", "ty=1")
    assert isinstance(failed.exception, ValueError)
    assert "did you mean 'toy'" in str(failed.exception)


def test_keys_come_from_lines_or_from_parquet(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"key": ["b", "a", "b"], "why": ["x", "y", "z"]}), tmp_path / "a.parquet"
    )
    pq.write_table(pa.table({"why": ["x"]}), tmp_path / "b.parquet")
    assert read_keys(tmp_path / "a.parquet") == ("a", "b")
    with pytest.raises(ValueError, match="has columns why, wanted one called key"):
        read_keys(tmp_path / "b.parquet")


def test_tiles_are_counted_as_a_run_with_them_counts(shard_set: ShardSet) -> None:
    tiles = ["--max-tiles", "4", "--tile-side", "16"]  # 40 x 32 pixels: 2 x 2 tiles and the whole
    plain = json.loads(run(shard_set, "--json").stdout)
    tiled = json.loads(run(shard_set, *tiles, "--json").stdout)
    assert tiled["image_positions"] == 5 * plain["image_positions"]
    alone = run(shard_set, *tiles[:2])
    assert alone.exit_code == 2
    assert "--max-tiles and --tile-side go together" in alone.output
