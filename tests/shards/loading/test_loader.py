"""The loader delivers the plan, to the token, and resumes exactly after any stop."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from vchat.shards.format.shard_set import ShardSet
from vchat.shards.loading.collate import IGNORED
from vchat.shards.loading.loader import Loader
from vchat.shards.pixels.decode import decode_image
from vchat.shards.plan.arguments import PlanArguments
from vchat.shards.plan.summary import summarize_plan
from vchat.shards.storage.store import LocalStore, ShardError
from vchat.shards.text.tokenizer import TextTokenizer
from vchat_testing.toy import toy_image, toy_shards, toy_tokenizer
from vchat_testing.toy_loading import SIDE, first_epoch, keys_of, toy_arguments, toy_loader

POSITIONS_PER_IMAGE = 5
TOKENS_PER_ROW = 400


def small_set(folder: Path, *, num_samples: int) -> ShardSet:
    """Sample `toy/n` has n % 4 images, `toy_image(10 n)` and on."""
    return toy_shards(
        folder / "set",
        num_samples=num_samples,
        images_per_sample=lambda number: number % 4,
        samples_per_shard=9,
    )


@pytest.fixture(scope="module")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return small_set(tmp_path_factory.mktemp("shards"), num_samples=36)


def loader(
    sets: ShardSet | list[ShardSet], plan: PlanArguments | None = None, **changes: object
) -> Loader:
    return toy_loader(sets, plan, **({"rows_per_step": 5, "rows_per_micro_batch": 2} | changes))


Step = dict[tuple[str, ...], tuple[list[int], list[int]]]
"""Token ids and labels of the rows of a step that hold samples, by the keys in the row."""


def steps_of(ranks: list[Loader]) -> Iterator[Step]:
    """Yield what all ranks together deliver, step by step; each step is marked as done."""
    streams = [iter(rank) for rank in ranks]
    while True:
        step: Step = {}
        for stream in streams:
            for _ in range(ranks[0].micro_batches_per_step):
                batch = next(stream)
                for row, keys in enumerate(batch.keys):
                    if keys:
                        assert tuple(keys) not in step
                        content = batch.token_ids[row].tolist(), batch.labels[row].tolist()
                        step[tuple(keys)] = content
        for rank in ranks:
            rank.finish_step()
        yield step


def world(shard_set: ShardSet, size: int, **changes: object) -> list[Loader]:
    return [loader(shard_set, rank=rank, world_size=size, **changes) for rank in range(size)]


def test_an_epoch_holds_every_sample_exactly_once(shard_set: ShardSet) -> None:
    keys = keys_of(first_epoch(loader(shard_set)))
    assert sorted(keys) == sorted(shard_set.index("train")["key"].to_pylist())


def test_images_stand_in_the_order_of_their_slots(shard_set: ShardSet) -> None:
    image_id = shard_set.manifest["tokenizer"]["image_id"]
    for batch in first_epoch(loader(shard_set)):
        numbers = [int(key.split("/")[1]) for row in batch.keys for key in row]
        images = [toy_image(10 * number + k) for number in numbers for k in range(number % 4)]
        wanted = [decode_image(image.data, shorter_side=SIDE, crop=SIDE) for image in images]
        for pixels, image in zip(batch.pixels, wanted, strict=True):
            np.testing.assert_array_equal(pixels.numpy(), image)
        slots = int((batch.token_ids == image_id).sum())
        assert slots == POSITIONS_PER_IMAGE * len(batch.pixels)


def test_every_batch_has_the_same_shape_and_a_rank_without_rows_gets_padding(
    shard_set: ShardSet,
) -> None:
    ranks = world(shard_set, 8, rows_per_step=3)
    batches = [batch for rank in ranks for batch in first_epoch(rank)]
    assert {tuple(batch.token_ids.shape) for batch in batches} == {(2, TOKENS_PER_ROW)}
    assert len({len(first_epoch(rank)) for rank in ranks}) == 1
    empty = [batch for batch in batches if not any(batch.keys)]
    assert empty
    for batch in empty:
        assert batch.pixels.shape == (0, 3, SIDE, SIDE)
        assert not batch.segment_ids.any()
        assert (batch.labels == IGNORED).all()


def test_the_plan_is_delivered_to_the_token(shard_set: ShardSet) -> None:
    ranks = world(shard_set, 3)
    batches = [batch for rank in ranks for batch in first_epoch(rank)]
    summary = summarize_plan(
        ranks[0].plan(0), rows_per_step=5, rows_per_micro_batch=2, world_size=3
    )
    image_id = shard_set.manifest["tokenizer"]["image_id"]
    used = sum(int((batch.segment_ids > 0).sum()) for batch in batches)
    slots = sum(int((batch.token_ids == image_id).sum()) for batch in batches)
    assert summary.padding == sum(batch.token_ids.numel() for batch in batches) - used
    assert summary.image_positions == slots
    assert summary.text_tokens == used - slots
    assert summary.supervised_tokens == sum(batch.num_supervised for batch in batches)
    assert summary.images == sum(len(batch.pixels) for batch in batches)
    assert summary.samples == sum(len(row) for batch in batches for row in batch.keys)
    empty = sum(not row for batch in batches for row in batch.keys)
    assert summary.zero_weight_rows == empty
    assert summary.steps == 1 + max(batch.step for batch in batches)


def test_supervised_tokens_of_a_step_are_the_planned_ones(shard_set: ShardSet) -> None:
    batches = [batch for rank in world(shard_set, 2) for batch in first_epoch(rank)]
    for step in range(1 + max(batch.step for batch in batches)):
        of_step = [batch for batch in batches if batch.step == step]
        delivered = sum(batch.num_supervised for batch in of_step)
        assert {batch.supervised_of_step for batch in of_step} == {delivered}


@given(st.data())
@settings(max_examples=12, deadline=None)
def test_any_schedule_of_stops_and_topologies_gives_the_same_steps(
    shard_set: ShardSet, data: st.DataObject
) -> None:
    wanted = list(itertools.islice(steps_of(world(shard_set, 1)), 8))
    found: list[Step] = []
    state: dict[str, Any] | None = None
    while len(found) < len(wanted):
        ranks = world(
            shard_set,
            data.draw(st.integers(1, 5), label="world size"),
            rows_per_micro_batch=data.draw(st.integers(1, 3), label="micro-batch"),
            threads=data.draw(st.integers(1, 3), label="threads"),
            prefetch_rows=data.draw(st.integers(1, 30), label="prefetch"),
        )
        for rank in ranks:
            if state is not None:
                rank.load_state_dict(state)
        found += itertools.islice(steps_of(ranks), data.draw(st.integers(1, 4), label="steps"))
        state = json.loads(json.dumps(ranks[-1].state_dict()))
    assert found[: len(wanted)] == wanted


def test_only_finished_steps_count(shard_set: ShardSet) -> None:
    rank = loader(shard_set)
    stream = iter(rank)
    for _ in range(rank.micro_batches_per_step + 1):
        next(stream)
    assert rank.state_dict()["position"] == 0
    rank.finish_step()
    assert rank.state_dict()["position"] == 5
    with pytest.raises(RuntimeError, match="rows 5 to 10 of epoch 0 cannot be finished"):
        rank.finish_step()


def test_another_number_of_rows_per_step_resumes_at_the_same_row(shard_set: ShardSet) -> None:
    before = loader(shard_set)
    next(steps_of([before]))
    after = loader(shard_set, rows_per_step=3)
    after.load_state_dict(before.state_dict())
    plan = after.plan(0)
    wanted = [[plan.index.keys[n] for n in plan.row(row)] for row in (5, 6, 7)]
    assert sorted(map(list, next(steps_of([after])))) == sorted(wanted)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"seed": 2}, "seed was 1, is 2"),
        ({"tokens_per_row": 470}, "tokens_per_row was 400, is 470"),
        ({"positions_per_image": 4}, "positions_per_image was 5, is 4"),
    ],
)
def test_an_argument_cannot_change_in_mid_epoch(
    shard_set: ShardSet, change: dict[str, object], message: str
) -> None:
    before = loader(shard_set)
    next(steps_of([before]))
    with pytest.raises(ValueError, match=f"epoch 0 at row 5: {message}"):
        loader(shard_set, toy_arguments(**change)).load_state_dict(before.state_dict())


def test_arguments_may_change_between_epochs(shard_set: ShardSet) -> None:
    before = loader(shard_set)
    steps = steps_of([before])
    while before.state_dict()["epoch"] == 0:
        next(steps)
    after = loader(shard_set, toy_arguments(seed=2))
    after.load_state_dict(before.state_dict())
    assert next(iter(after)).epoch == 1


def test_lanes_stay_those_of_the_first_launch(shard_set: ShardSet) -> None:
    before = loader(shard_set)
    next(steps_of([before]))
    after = loader(shard_set, toy_arguments(lanes=4))
    after.load_state_dict(before.state_dict())
    assert after.state_dict() == before.state_dict()


def test_other_shards_are_refused_in_mid_epoch(shard_set: ShardSet, tmp_path: Path) -> None:
    before = loader(shard_set)
    next(steps_of([before]))
    other = small_set(tmp_path, num_samples=37)
    with pytest.raises(ValueError, match=r"index was '.*', is '.*'"):
        loader(other).load_state_dict(before.state_dict())


def test_other_rows_for_equal_arguments_are_refused(shard_set: ShardSet) -> None:
    before = loader(shard_set)
    next(steps_of([before]))
    state = before.state_dict() | {"digest": "0" * 64}
    with pytest.raises(ValueError, match="the state has 000"):
        loader(shard_set).load_state_dict(state)


def test_worker_processes_deliver_the_same_batches(shard_set: ShardSet) -> None:
    alone = first_epoch(loader(shard_set))
    rank = loader(shard_set)
    workers = DataLoader(rank, batch_size=None, num_workers=2)
    shared = list(itertools.islice(workers, len(alone)))
    assert [batch.keys for batch in shared] == [batch.keys for batch in alone]
    for before, after in zip(alone, shared, strict=True):
        assert torch.equal(before.pixels, after.pixels)
        assert torch.equal(before.labels, after.labels)
    rank.finish_step()
    assert rank.state_dict()["position"] == 5


def test_two_sets_are_read_as_one(shard_set: ShardSet, tmp_path: Path) -> None:
    other = small_set(tmp_path, num_samples=7)
    both = loader([shard_set, other], toy_arguments(set_weights=(0.5, 2.0)))
    keys = keys_of(first_epoch(both))
    assert len(keys) == 18 + 14
    assert both.index.num_sets == 2


def test_sets_of_two_tokenizers_are_refused(shard_set: ShardSet, tmp_path: Path) -> None:
    other = toy_tokenizer(tmp_path / "other", num_ids=300)
    foreign = toy_shards(tmp_path / "set", tokenizer=TextTokenizer.load(other))
    with pytest.raises(ValueError, match="cannot be read together: their tokenizer digests"):
        loader([shard_set, foreign])


def test_an_epoch_without_one_step_is_an_error(shard_set: ShardSet) -> None:
    rank = loader(shard_set, toy_arguments(tail="drop"), rows_per_step=1000)
    with pytest.raises(ValueError, match="not one step of 1000 rows"):
        next(iter(rank))


@pytest.fixture
def damaged(tmp_path: Path) -> ShardSet:
    """A set of its own for one test, 6 samples in one shard."""
    return small_set(tmp_path, num_samples=6)


def spoil(shard_set: ShardSet, *, sample: int, member: str) -> None:
    """Change one byte of a member of a sample."""
    row = shard_set.index("train").slice(sample, 1).to_pylist()[0]
    place = next(found for found in row["members"] if found["name"] == member)
    path = shard_set.folder / shard_set.manifest["shards"][row["shard"]]["name"]
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[place["offset"] + place["size"] - 1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("member", ["0.jpg", "tokens.npy", "mask.npy"])
def test_a_wrong_byte_is_an_error_that_says_where(damaged: ShardSet, member: str) -> None:
    spoil(damaged, sample=3, member=member)
    with pytest.raises(ShardError, match=rf"train-000000.tar.*toy2/3.*{member} has checksum") as e:
        first_epoch(loader(damaged))
    assert (e.value.shard, e.value.key) == ("train-000000.tar", "toy2/3")


def test_an_error_in_a_worker_process_keeps_its_type_and_says_where(damaged: ShardSet) -> None:
    spoil(damaged, sample=3, member="mask.npy")
    workers = DataLoader(loader(damaged), batch_size=None, num_workers=1)
    with pytest.raises(ShardError, match=r"train-000000.tar at byte \d+ \(sample toy2/3 of"):
        list(itertools.islice(workers, 20))


def test_a_truncated_and_a_deleted_shard_are_errors(damaged: ShardSet) -> None:
    path = damaged.folder / "train-000000.tar"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(ShardError, match="the file is truncated"):
        first_epoch(loader(damaged))
    path.unlink()
    with pytest.raises(ShardError, match="No such file"):
        first_epoch(loader(damaged))


@pytest.mark.parametrize("member", ["0.jpg", "tokens.npy"])
def test_skipping_clears_one_sample_and_leaves_the_others(damaged: ShardSet, member: str) -> None:
    whole = first_epoch(loader(damaged))
    spoil(damaged, sample=3, member=member)
    rank = loader(damaged, on_fault="skip")
    skipped = first_epoch(rank)
    assert rank.num_skipped == {0: 1}
    for before, after in zip(whole, skipped, strict=True):
        assert after.keys == before.keys
        assert after.pixels.shape == before.pixels.shape
        assert torch.equal(after.segment_ids, before.segment_ids)
        assert after.supervised_of_step == before.supervised_of_step
        for row, keys in enumerate(before.keys):
            for segment, key in enumerate(keys, start=1):
                here = before.segment_ids[row] == segment
                if key == "toy2/3":
                    assert (after.labels[row][here] == IGNORED).all()
                else:
                    assert torch.equal(after.labels[row][here], before.labels[row][here])
                    assert torch.equal(after.token_ids[row][here], before.token_ids[row][here])
    black = [int((batch.pixels.amax((1, 2, 3)) == 0).sum()) for batch in skipped]
    assert sum(black) == 3


def test_skipping_is_capped(damaged: ShardSet) -> None:
    for sample in (2, 3):
        spoil(damaged, sample=sample, member="mask.npy")
    with pytest.raises(ValueError, match="more than 1 samples skipped in epoch 0"):
        first_epoch(loader(damaged, on_fault="skip", max_skipped=1))


def test_a_read_that_fails_once_is_tried_again(
    shard_set: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: set[tuple[str, int]] = set()
    read = LocalStore.read

    def failing(self: LocalStore, name: str, start: int, end: int) -> bytes:
        if (name, start) not in failed:
            failed.add((name, start))
            raise ShardError("reset", shard=name, offset=start)
        return read(self, name, start, end)

    monkeypatch.setattr(LocalStore, "read", failing)
    assert len(keys_of(first_epoch(loader(shard_set)))) == 36


def test_a_batch_in_use_is_never_overwritten(shard_set: ShardSet) -> None:
    """The memory of batches is used again, but only of those that nobody has any more."""
    fresh = iter(loader(shard_set))
    copies = [batch.pixels.clone() for batch in itertools.islice(fresh, 40)]
    kept = list(itertools.islice(loader(shard_set), 40))
    assert len({batch.pixels.data_ptr() for batch in kept if len(batch.pixels)}) == len(
        [batch for batch in kept if len(batch.pixels)]
    )
    assert all(torch.equal(a, b.pixels) for a, b in zip(copies, kept, strict=True))
