"""What the design promises of plans, over random manifests, blends, topologies and schedules."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vchat.shards.format.shard_set import ShardSet
from vchat.shards.loading import batch_iterator
from vchat.shards.loading.loader import Loader
from vchat.shards.plan.arguments import PlanArguments, SourceShare
from vchat.shards.plan.epoch import deal_rows, plan_digest, plan_epoch, sample_positions
from vchat.shards.plan.joined_sets import join_sets
from vchat.shards.plan.row_order import deal_shards
from vchat_testing.toy import toy_shards
from vchat_testing.toy_plans import POSITIONS_PER_IMAGE, arguments, index_of, regular_index

TOKENS_PER_ROW = 400
NUM_SAMPLES = 40


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return toy_shards(
        tmp_path_factory.mktemp("shards") / "set",
        num_samples=NUM_SAMPLES,
        images_per_sample=lambda number: number % 4,
        samples_per_shard=5,
    )


class PartOfSet(ShardSet):
    """Some samples of a set as a set of their own, with other sources: its bytes are the same."""

    def __init__(self, whole: ShardSet, *, numbers: list[int], sources: list[str]):
        digest = hashlib.sha256(json.dumps([numbers, sources]).encode()).hexdigest()
        digests = whole.manifest["digests"] | {"index": digest}
        super().__init__(
            whole.folder, manifest=whole.manifest | {"digests": digests}, store=whole.store
        )
        table = whole.index("train").take(numbers)
        column = table.schema.get_field_index("source")
        self._part = table.set_column(column, "source", pa.array(sources, pa.string()))

    def index(self, split: str | None = None) -> pa.Table:
        return self._part


@dataclass(frozen=True)
class Blend:
    """Shard sets and the arguments of a plan over them."""

    sets: list[ShardSet]
    arguments: PlanArguments

    def loader(self, **topology: int) -> Loader:
        return Loader(self.sets, self.arguments, image_size=32, threads=1, **topology)


@st.composite
def blends(draw: st.DrawFn, stored: ShardSet) -> Blend:
    sets: list[ShardSet] = []
    for _ in range(draw(st.integers(1, 2), label="sets")):
        numbers = sorted(draw(st.sets(st.integers(0, NUM_SAMPLES - 1), min_size=4)))
        kinds = st.sampled_from(["llava", "ocr_vqa", "cgd"])
        sources = draw(st.lists(kinds, min_size=len(numbers), max_size=len(numbers)))
        sets.append(PartOfSet(stored, numbers=numbers, sources=sources))
    present = sorted({source for part in sets for source in part.index()["source"].to_pylist()})
    weights = st.sampled_from([0.0, 0.3, 1.0, 1.7, 2.0])
    named = draw(st.lists(st.sampled_from(present), unique=True, max_size=2))
    shares = [
        SourceShare(source=source, weight=draw(weights), cap=draw(st.sampled_from([None, None, 7])))
        for source in named
    ]
    set_weights = draw(st.sampled_from([(), (1.0, 0.5), (2.0, 1.0)]), label="set weights")
    keys = sets[0].index()["key"].to_pylist()
    chosen = PlanArguments(
        split="train",
        seed=draw(st.integers(0, 1 << 40)),
        epoch=0,
        tokens_per_row=TOKENS_PER_ROW,
        images_per_row=draw(st.integers(3, 8)),
        positions_per_image=POSITIONS_PER_IMAGE,
        shuffle_window_shards=draw(st.integers(1, 9)),
        lanes=draw(st.integers(1, 6)),
        balanced_rows=draw(st.sampled_from([1, 1, 4])),
        mix=tuple(shares),
        set_weights=set_weights[: len(sets)],
        exclude=tuple(draw(st.lists(st.sampled_from(keys), max_size=2))),
        tail=draw(st.sampled_from(["pad", "drop"])),
    )
    return Blend(sets, chosen)


def wanted_steps(blend: Blend, *, rows_per_step: int) -> Iterator[list[int]]:
    """Yield the sample numbers of each step, epoch after epoch, straight from the plans."""
    index = join_sets(blend.sets, split="train").index
    for epoch in itertools.count():
        plan = plan_epoch(index, replace(blend.arguments, epoch=epoch))
        for step in range(plan.num_steps(rows_per_step)):
            rows = plan.rows_of_step(step * rows_per_step, rows_per_step=rows_per_step)
            yield sorted(itertools.chain(*(plan.row(row).tolist() for row in rows)))


def has_a_step(blend: Blend, *, rows_per_step: int) -> bool:
    """Whether each epoch has one that a test can reach: 7 steps, and 4 after the last stop."""
    index = join_sets(blend.sets, split="train").index
    plans = (plan_epoch(index, replace(blend.arguments, epoch=epoch)) for epoch in range(7 + 4))
    return all(plan.num_steps(rows_per_step) for plan in plans)


def delivered(loader: Loader, *, workers: int) -> Iterator[Any]:
    """Yield the micro-batches that worker processes of a DataLoader would read, in its order."""
    patched = pytest.MonkeyPatch()
    shares = []
    for worker in range(workers):
        info = SimpleNamespace(id=worker, num_workers=workers)
        with patched.context() as here:
            here.setattr(batch_iterator, "get_worker_info", lambda info=info: info)
            shares.append(batch_iterator.next_batches(loader.cursor, after=None))
    for share in itertools.cycle(shares):
        yield next(share)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_schedule_gives_the_same_global_batches(stored: ShardSet, data: st.DataObject) -> None:
    blend = data.draw(blends(stored))
    rows_per_step = data.draw(st.integers(1, 9), label="rows per step")
    if not has_a_step(blend, rows_per_step=rows_per_step):
        return
    wanted = list(itertools.islice(wanted_steps(blend, rows_per_step=rows_per_step), 7))
    found: list[list[int]] = []
    state: dict[str, Any] | None = None
    while len(found) < len(wanted):
        world_size = data.draw(st.integers(1, 64), label="world size")
        topology = {
            "rows_per_step": rows_per_step,
            "rows_per_micro_batch": data.draw(st.integers(1, 5), label="micro-batch"),
            "world_size": world_size,
        }
        workers = data.draw(st.integers(1, 5), label="workers")
        ranks = [blend.loader(rank=rank, **topology) for rank in range(world_size)]
        for rank in ranks if state is not None else []:
            rank.load_state_dict(state)
        streams = [delivered(rank, workers=workers) for rank in ranks]
        for _ in range(data.draw(st.integers(1, 4), label="steps until the stop")):
            numbers: list[int] = []
            for rank, stream in zip(ranks, streams, strict=True):
                batches = list(itertools.islice(stream, rank.micro_batches_per_step))
                assert [batch.ends_step for batch in batches] == [False] * (len(batches) - 1) + [
                    True
                ]
                rows = [row for batch in batches for row in batch.rows if row is not None]
                numbers += itertools.chain(*(batches[0].plan.row(row).tolist() for row in rows))
                rank.finish_step()
            found.append(sorted(numbers))
        state = json.loads(json.dumps(ranks[-1].state_dict()))
    assert found[: len(wanted)] == wanted


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_blended_epochs_are_delivered_as_planned(stored: ShardSet, data: st.DataObject) -> None:
    blend = data.draw(blends(stored))
    topology = {"rows_per_step": data.draw(st.integers(1, 6)), "rows_per_micro_batch": 2}
    if not has_a_step(blend, rows_per_step=topology["rows_per_step"]):
        return
    world_size = data.draw(st.integers(1, 3), label="world size")
    ranks = [blend.loader(rank=r, world_size=world_size, **topology) for r in range(world_size)]
    plan = ranks[0].plan(0)
    steps = plan.num_steps(topology["rows_per_step"])
    batches = [
        batch
        for rank in ranks
        for batch in itertools.islice(rank, steps * rank.micro_batches_per_step)
    ]
    rows = plan.rows_of_step(0, rows_per_step=steps * topology["rows_per_step"])
    rows = rows if plan.arguments.tail == "pad" else range(steps * topology["rows_per_step"])
    counted = Counter(plan.index.keys[n] for row in rows for n in plan.row(row).tolist())
    assert Counter(key for batch in batches for row in batch.keys for key in row) == counted
    assert sum(batch.num_supervised for batch in batches) == sum(
        plan.count_supervised_of_step(step, topology["rows_per_step"]) for step in range(steps)
    )
    assert not set(blend.arguments.exclude) & set(blend.sets[0].index()["key"].to_pylist()) or (
        len(blend.sets) > 1 or not set(blend.arguments.exclude) & set(counted)
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 16), st.integers(1, 16), st.integers(0, 1 << 30))
def test_a_rank_owns_whole_lanes_if_the_world_divides_them(
    world_size: int, lanes_per_rank: int, seed: int
) -> None:
    lanes = world_size * lanes_per_rank
    index = regular_index(300, samples_per_shard=2)
    plan = plan_epoch(index, arguments(lanes=lanes, seed=seed))
    lane_of_shard, _ = deal_shards(index, plan.arguments)
    lane_of_row = lane_of_shard[index.shard[plan.samples[plan.row_offsets[:-1]]]]
    left = np.bincount(lane_of_row, minlength=lanes)
    before_one_runs_dry = range(lanes * int(left.min()))
    for rank in range(world_size):
        micro_batches = deal_rows(
            before_one_runs_dry,
            rows_per_step=max(1, len(before_one_runs_dry)),
            rows_per_micro_batch=1,
            rank=rank,
            world_size=world_size,
        )
        rows = [row for [row] in micro_batches if row is not None]
        assert set((lane_of_row[rows] % world_size).tolist()) <= {rank}


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 6)), min_size=1, max_size=30),
    st.integers(10, 80),
    st.integers(0, 6),
    st.one_of(st.none(), st.integers(5, 90)),
)
def test_what_fits_no_row_is_an_error_or_is_listed(
    samples: list[tuple[int, int]], tokens: int, images: int, longest: int | None
) -> None:
    index = index_of([t for t, _ in samples], [i for _, i in samples], [0] * len(samples))
    given_ = arguments(tokens_per_row=tokens, images_per_row=images, positions_per_sample=longest)
    positions = sample_positions(index, given_)
    limit = min(tokens, longest or tokens)
    over = [n for n, (_, i) in enumerate(samples) if positions[n] > limit or i > images]
    if over:
        with pytest.raises(ValueError, match=f"{len(over)} of .* the first is toy/{over[0]} "):
            plan_epoch(index, given_)
    plan = plan_epoch(index, replace(given_, on_too_long="exclude"))
    assert plan.excluded.tolist() == over
    assert sorted(plan.samples.tolist()) == sorted(set(range(len(samples))) - set(over))


CHANGES: dict[str, Any] = {
    "split": "eval",
    "seed": 5,
    "tokens_per_row": TOKENS_PER_ROW + 1,
    "images_per_row": 99,
    "positions_per_image": POSITIONS_PER_IMAGE + 1,
    "shuffle_window_shards": 99,
    "mix": (SourceShare(source="toy", weight=2.0),),
    "set_weights": (3.0,),
    "exclude": ("toy/1",),
    "on_too_long": "exclude",
    "tail": "drop",
    "positions_per_sample": 399,
}


@pytest.mark.parametrize("name", [*CHANGES])
def test_no_argument_may_change_in_mid_epoch(stored: ShardSet, name: str) -> None:
    given_ = replace(
        arguments(), tokens_per_row=TOKENS_PER_ROW, images_per_row=8, shuffle_window_shards=2
    )
    topology = {"rows_per_step": 2, "rows_per_micro_batch": 2}
    before = Blend([stored], given_).loader(**topology)
    next(iter(before))
    before.finish_step()
    after = Blend([stored], replace(given_, **{name: CHANGES[name]})).loader(**topology)
    if name == "split":
        with pytest.raises(ValueError, match="split was 'train', is 'eval'"):
            after.load_state_dict(before.state_dict())
        return
    with pytest.raises(ValueError, match=rf"epoch 0 at row 2: {name} was .*, is "):
        after.load_state_dict(before.state_dict())


def test_every_argument_that_shapes_an_epoch_is_tried_above() -> None:
    chosen_at_launch = {"lanes", "balanced_rows"}
    assert {*CHANGES} == {*arguments().describe()} - chosen_at_launch - {"epoch", "plan_version"}


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_digest_covers_the_rows(random: Any) -> None:
    plan = plan_epoch(regular_index(), arguments())
    samples, offsets = plan.samples.copy(), plan.row_offsets.copy()
    first, second = random.sample(range(len(samples)), 2)
    samples[[first, second]] = samples[[second, first]]
    digest = plan_digest(plan.index, plan.arguments, row_offsets=offsets, samples=samples)
    assert digest != plan.digest
    offsets[random.randrange(1, plan.num_rows)] += 1
    assert plan.digest != plan_digest(
        plan.index, plan.arguments, row_offsets=offsets, samples=plan.samples
    )


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_sample_comes_as_often_as_the_mix_says(stored: ShardSet, data: st.DataObject) -> None:
    blend = data.draw(blends(stored))
    index = join_sets(blend.sets, split="train").index
    plans = [plan_epoch(index, replace(blend.arguments, epoch=epoch)) for epoch in range(3)]
    drawn = Counter(itertools.chain(*(plan.samples.tolist() for plan in plans)))
    excluded = set(blend.arguments.exclude)
    of: dict[tuple[int, str], list[int]] = {}
    for number in range(len(index)):
        if index.keys[number] in excluded:
            assert number not in drawn
            continue
        set_number = int(index.set_of_shard[index.shard[number]])
        of.setdefault((set_number, index.sources[index.source[number]]), []).append(number)
    for (set_number, source), numbers in of.items():
        counts = [drawn[number] for number in numbers]
        per_epoch = len(numbers) * blend.arguments.draws_per_sample(
            set_number=set_number, source=source
        )
        share = blend.arguments.share_of(source)
        if share is not None and share.cap is not None:
            per_epoch = min(per_epoch, Fraction(share.cap))
        assert sum(counts) == int(3 * per_epoch)
        assert max(counts) - min(counts) <= 1
