"""Samples to a batch: slots repeated, labels, positions and segments of packed rows.

Dimensions: B rows, S positions per row (always the row budget), N images in the batch, T tokens of
a sample with its slots repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from vchat.shards.store import ShardError

IGNORED = -100
"""The label of a position that carries no loss, as in torch's cross entropy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSample:
    """The ids of one sample, with its slots already repeated; its pixels lie in the batch."""

    key: str
    ids: NDArray[np.int32]
    """int32[T]."""

    supervised: NDArray[np.bool_]
    """bool[T]."""

    fault: ShardError | None = None
    """Why it is blank, if it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One micro-batch of packed rows of one rank."""

    pixels: Tensor
    """uint8[N, 3, H, W], in the order of their slots, row by row; N may be 0."""

    token_ids: Tensor
    """int64[B, S]; a slot id stands at every position that an image takes."""

    labels: Tensor
    """int64[B, S], the id itself where it is supervised, else -100. Not shifted."""

    position_ids: Tensor
    """int64[B, S], from 0 in every sample."""

    segment_ids: Tensor
    """int64[B, S], 1 for the first sample of a row, 2 for the next ...; 0 is padding."""

    keys: list[list[str]]
    """Keys of the samples of each row."""

    num_supervised: int
    """Supervised tokens in this micro-batch."""

    epoch: int = 0
    step: int = 0
    """Optimizer step in the epoch, from 0."""

    micro_batch: int = 0
    """Number of this micro-batch in its step on this rank, from 0."""

    micro_batches: int = 1
    """Micro-batches of the step on each rank."""

    supervised_of_step: int = 0
    """Planned supervised tokens of the step over all ranks: what its loss is divided by."""

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with its tensors on a device; from pinned memory without waiting."""
        return replace(
            self,
            pixels=self.pixels.to(device, non_blocking=True),
            token_ids=self.token_ids.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            position_ids=self.position_ids.to(device, non_blocking=True),
            segment_ids=self.segment_ids.to(device, non_blocking=True),
        )

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory; torch's DataLoader calls this too."""
        return replace(
            self,
            pixels=self.pixels.pin_memory(),
            token_ids=self.token_ids.pin_memory(),
            labels=self.labels.pin_memory(),
            position_ids=self.position_ids.pin_memory(),
            segment_ids=self.segment_ids.pin_memory(),
        )


def with_slots_repeated(
    ids: NDArray[np.int32],
    supervised: NDArray[np.bool_],
    *,
    image_id: int,
    positions: NDArray[np.int64],
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Return ids and mask in which the slot of image k stands `positions[k]` times.

    Raises:
        ValueError: another number of slots than of images.
    """
    slots = np.flatnonzero(ids == image_id)
    if len(slots) != len(positions):
        raise ValueError(f"{len(slots)} image slots for {len(positions)} images")
    repeats = np.ones(len(ids), np.int64)
    repeats[slots] = positions
    return np.repeat(ids, repeats), np.repeat(supervised, repeats)


def collated(
    rows: Sequence[Sequence[LoadedSample]],
    *,
    pixels: NDArray[np.uint8],
    tokens_per_row: int,
    pad_id: int,
) -> Batch:
    """Lay samples out in rows of exactly `tokens_per_row` positions, padding at the end.

    The batch takes `pixels`, uint8[N, 3, H, W] in the order of the slots, as they are. A row
    without samples is all padding. Pad positions hold `pad_id`, no label and segment 0.
    """
    shape = (len(rows), tokens_per_row)
    token_ids = np.full(shape, pad_id, np.int64)
    labels = np.full(shape, IGNORED, np.int64)
    position_ids, segment_ids = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for r, row in enumerate(rows):
        start = 0
        for segment, sample in enumerate(row, start=1):
            end = start + len(sample.ids)
            token_ids[r, start:end] = sample.ids
            labels[r, start:end] = np.where(sample.supervised, sample.ids, IGNORED)
            position_ids[r, start:end] = np.arange(end - start)
            segment_ids[r, start:end] = segment
            start = end
    return Batch(
        pixels=torch.from_numpy(pixels),
        token_ids=torch.from_numpy(token_ids),
        labels=torch.from_numpy(labels),
        position_ids=torch.from_numpy(position_ids),
        segment_ids=torch.from_numpy(segment_ids),
        keys=[[sample.key for sample in row] for row in rows],
        num_supervised=int((labels != IGNORED).sum()),
    )
