"""Collate samples into packed rows: ids with repeated slots, labels, positions and segments.

Dimensions: B rows, S positions per row (always the row budget), N images in the batch, T tokens of
a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vchat.shards.loading.buffers import BatchBuffer, RowBuffer
from vchat.shards.storage.store import ShardError

IGNORED = -100
"""The label of a position that carries no loss, as in torch's cross entropy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSample:
    """The ids of one sample as stored; its pixels go into the batch."""

    key: str
    ids: NDArray[np.int32]
    """int32[T], one slot id per image."""

    supervised: NDArray[np.bool_]
    """bool[T]."""

    images: tuple[memoryview, ...] = ()
    """Encoded images in the order of their slots."""

    fault: ShardError | None = None
    """Why the sample is blank; None if it is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One micro-batch of packed rows of one rank."""

    pixels: Tensor
    """uint8[N, 3, H, W], channels last in memory, in the order of their slots, row by row; N may
    be 0."""

    token_ids: Tensor
    """int64[B, S]; an image has its slot id at each of its positions."""

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
    """Planned supervised tokens of the step over all ranks: the divisor of its loss."""

    @classmethod
    def from_buffer(
        cls, buffer: BatchBuffer, keys: list[list[str]], *, num_supervised: int
    ) -> Batch:
        """Return a batch of what is in a buffer, without copying."""
        token_ids, labels, position_ids, segment_ids = buffer.tokens
        return cls(
            pixels=buffer.pixels.permute(0, 3, 1, 2),
            token_ids=token_ids,
            labels=labels,
            position_ids=position_ids,
            segment_ids=segment_ids,
            keys=keys,
            num_supervised=num_supervised,
        )

    @property
    def ends_step(self) -> bool:
        """Whether this is the last micro-batch of its step."""
        return self.micro_batch == self.micro_batches - 1

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


def repeat_slots(
    ids: NDArray[np.int32],
    supervised: NDArray[np.bool_],
    *,
    image_id: int,
    positions: NDArray[np.int64],
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Return ids and mask with the slot of image k repeated `positions[k]` times.

    Raises:
        ValueError: another number of slots than of images.
    """
    slots = np.flatnonzero(ids == image_id)
    if len(slots) != len(positions):
        raise ValueError(f"{len(slots)} image slots for {len(positions)} images")
    repeats = np.ones(len(ids), np.int64)
    repeats[slots] = positions
    return ids.repeat(repeats), supervised.repeat(repeats)


def fill_row(
    samples: Sequence[LoadedSample],
    buffer: RowBuffer,
    *,
    lengths: NDArray[np.integer],
    positions: NDArray[np.int64],
    image_id: int,
    pad_id: int,
) -> None:
    """Fill a row with samples one after the other, slots repeated, and pad it after the last.

    Pad positions get `pad_id`, no label and segment 0.

    Args:
        lengths: int[samples], of each sample with its slots repeated.
        positions: int64[images], of each image of the row.

    Raises:
        ValueError: the samples have another number of slots than there are images.
    """
    buffer.labels.fill(IGNORED)
    end = 0
    if samples:
        ids, supervised = repeat_slots(
            np.concatenate([sample.ids for sample in samples]),
            np.concatenate([sample.supervised for sample in samples]),
            image_id=image_id,
            positions=positions,
        )
        end = len(ids)
        buffer.token_ids[:end] = ids
        np.copyto(buffer.labels[:end], ids, where=supervised)
        numbers, first = np.arange(end), 0
        for segment, length in enumerate(lengths.tolist(), start=1):
            buffer.position_ids[first : first + length] = numbers[:length]
            buffer.segment_ids[first : first + length] = segment
            first += length
    buffer.token_ids[end:] = pad_id
    buffer.position_ids[end:] = 0
    buffer.segment_ids[end:] = 0
