"""Which samples an epoch draws, and how often: exclusions, limits, and the mix of sources."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from vchat.base.nearest import nearest
from vchat.shards.plan.arguments import PlanArguments
from vchat.shards.plan.ordering import Hashes, TextColumn, key_hashes, make_sort_keys, mix64
from vchat.shards.plan.plan_index import PlanIndex

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

WALK = 4
"""Purpose of the keyed hash that orders the samples of a source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The draws of one epoch, in no particular order."""

    samples: NDArray[np.int32]
    """int32[D], sample numbers; a number occurs as often as the epoch draws it."""

    cycles: Hashes | None
    """uint64[D], how often the epoch drew the sample before this draw; None: never."""

    excluded: Ints
    """Samples that no row can hold, in index order."""

    num_tombstones: int
    """Samples left out because `exclude` names them."""

    def reorder(self, order: Ints) -> Selection:
        """Return the same draws in another order."""
        cycles = None if self.cycles is None else self.cycles[order]
        return replace(self, samples=self.samples[order], cycles=cycles)


def select_samples(
    index: PlanIndex, arguments: PlanArguments, *, positions: NDArray[np.int32]
) -> Selection:
    """Return what an epoch draws.

    Args:
        positions: int32[N], positions each sample takes in a row.

    Raises:
        ValueError: a sample fits no row and `on_too_long` is "error"; names the first such sample.
            Or `mix` names a source that the index does not have.
    """
    check_names(index, arguments)
    tombstones = match_keys(index.keys, names=arguments.exclude)
    too_long = ~tombstones & is_over_budget(index, arguments, positions=positions)
    if too_long.any() and arguments.on_too_long == "error":
        raise ValueError(too_long_message(index, arguments, too_long, positions=positions))
    usable = ~(tombstones | too_long)
    samples, cycles = draw_samples(index, arguments, usable=usable)
    return Selection(
        samples=samples.astype(np.int32),
        cycles=cycles,
        excluded=np.flatnonzero(too_long),
        num_tombstones=int(tombstones.sum()),
    )


def check_names(index: PlanIndex, arguments: PlanArguments) -> None:
    """Raise ValueError if `mix` or `set_weights` do not match the sources and sets of the index."""
    for share in arguments.mix:
        if share.source not in index.sources:
            similar = nearest(share.source, index.sources)
            meant = f"; did you mean {similar[0]!r}?" if similar else ""
            raise ValueError(
                f"mix names source {share.source!r}, the shards have "
                f"{', '.join(index.sources)}{meant}"
            )
    repeated = len(arguments.mix) - len({share.source for share in arguments.mix})
    if repeated:
        raise ValueError(f"mix names {repeated} sources more than once")
    if arguments.set_weights and len(arguments.set_weights) != index.num_sets:
        raise ValueError(
            f"{len(arguments.set_weights)} set_weights for {index.num_sets} shard sets"
        )


def sample_hashes(index: PlanIndex, samples: NDArray[np.integer]) -> Hashes:
    """Return uint64[D] from the keys; equal keys in different sets get different hashes.

    Cost: that of all samples from the first to the last of these.
    """
    if len(samples) == 0:
        return np.zeros(0, np.uint64)
    first = int(samples.min())
    hashes: Hashes = key_hashes(index.keys.part(first, int(samples.max()) + 1))[samples - first]
    if index.num_sets == 1:
        return hashes
    set_number = index.set_of_shard[index.shard[samples]].astype(np.uint64)
    hashes ^= np.where(set_number > 0, mix64(~set_number), np.uint64(0))
    return hashes


def match_keys(keys: TextColumn, *, names: tuple[str, ...]) -> Mask:
    """Return bool[N]: which keys are among the names. Names may be of no sample."""
    found = np.zeros(len(keys), np.bool_)
    if names:
        wanted = set(names)
        hashes = np.isin(key_hashes(keys), key_hashes(TextColumn.of(names)))
        candidates = np.flatnonzero(hashes).tolist()
        found[[number for number in candidates if keys[number] in wanted]] = True
    return found


def is_over_budget(
    index: PlanIndex, arguments: PlanArguments, *, positions: NDArray[np.int32]
) -> Mask:
    """Return bool[N]: whether each sample is too large for any row."""
    longest = max_sample_positions(arguments)
    inputs = index.image_inputs(arguments.grid)
    return (positions > longest) | (inputs > arguments.images_per_row)


def max_sample_positions(arguments: PlanArguments) -> int:
    """Return the maximum number of positions of a sample."""
    row = arguments.tokens_per_row
    return min(row, arguments.positions_per_sample or row)


def too_long_message(
    index: PlanIndex, arguments: PlanArguments, too_long: Mask, *, positions: NDArray[np.int32]
) -> str:
    """Return the error message: how many samples fit no row, and the first of them."""
    first = int(np.flatnonzero(too_long)[0])
    inputs = index.image_inputs(arguments.grid)
    return (
        f"{too_long.sum()} of {len(index)} samples fit no row of {max_sample_positions(arguments)} "
        f"positions and {arguments.images_per_row} images; the first is {index.keys[first]} with "
        f"{positions[first]} positions and {inputs[first]} images "
        '(on_too_long = "exclude" leaves them out and lists them)'
    )


def draw_samples(
    index: PlanIndex, arguments: PlanArguments, *, usable: Mask
) -> tuple[Ints, Hashes | None]:
    """Return the samples an epoch draws, and for each draw how often it drew the sample before.

    These counts are None if every sample is drawn at most once.
    """
    if not arguments.mix and not arguments.set_weights:
        return np.flatnonzero(usable), None
    hashes = sample_hashes(index, np.arange(len(index)))
    draws = [
        walk(members, arguments, set_number=set_number, source=source, hashes=hashes)
        for set_number, source, members in sources_by_set(index, usable=usable)
    ]
    samples = np.concatenate([np.zeros(0, np.int64), *(samples for samples, _ in draws)])
    cycles = np.concatenate([np.zeros(0, np.uint64), *(cycle for _, cycle in draws)])
    return samples, cycles


def sources_by_set(index: PlanIndex, *, usable: Mask) -> Iterator[tuple[int, str, Ints]]:
    """Yield `(set number, source, its usable samples)` for all that have any."""
    group = index.set_of_shard[index.shard] * np.int64(len(index.sources)) + index.source
    for number in np.unique(group[usable]).tolist():
        set_number, source = divmod(number, len(index.sources))
        yield set_number, index.sources[source], np.flatnonzero(usable & (group == number))


def walk(
    members: Ints, arguments: PlanArguments, *, set_number: int, source: str, hashes: Hashes
) -> tuple[Ints, Hashes]:
    """Return one epoch's draws from a source, and how often the epoch drew each sample before.

    The draws of all epochs, end to end, repeat one permutation of the source.
    """
    amount = len(members) * arguments.draws_per_sample(set_number=set_number, source=source)
    share = arguments.share_of(source)
    if share is not None and share.cap is not None:
        amount = min(amount, Fraction(share.cap))
    start, stop = math.floor(arguments.epoch * amount), math.floor((arguments.epoch + 1) * amount)
    order = make_sort_keys(hashes[members], seed=arguments.seed, epoch=0, purpose=WALK)
    permutation = members[np.argsort(order, kind="stable")]
    cycle, step = np.divmod(np.arange(start, stop), len(members))
    return permutation[step], (cycle - start // len(members)).astype(np.uint64)
