"""Buffers of micro-batches: threads fill them row by row; free ones are used again.

A batch has some megabytes. Memory that is new to the process costs more than filling it: the system
clears every page first. So the memory of a batch without references serves a later batch.

Dimensions: B rows, S positions per row, N images in the batch.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from vchat.base.arrays import offsets_from_counts

GROWTH = 1.25
"""Factor by which a new block is larger than needed, as batches differ in their images."""


class BlockPool:
    """Blocks of memory, each lent to one tensor at a time. One thread takes, any may free."""

    def __init__(self, *, max_free: int):
        """Start without blocks; keep at most `max_free` that are free."""
        self._free: deque[NDArray[np.uint8]] = deque(maxlen=max_free)

    def tensor(self, shape: tuple[int, ...], dtype: DTypeLike) -> Tensor:
        """Return a tensor with undefined contents; its block is free when its last view is gone."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        block = self._block(size)
        lent: NDArray[Any] = block[:size].view(dtype).reshape(shape)
        weakref.finalize(lent, self._free.append, block).atexit = False
        return torch.from_numpy(lent)

    def _block(self, size: int) -> NDArray[np.uint8]:
        """Return a free block, or a new one; drops free blocks that are too small."""
        while self._free:
            block = self._free.pop()  # the one used last may still be in a cache
            if len(block) >= size:
                return block
        return np.empty(int(size * GROWTH), np.uint8)


@dataclass(frozen=True, slots=True)
class RowBuffer:
    """The part of a micro-batch's buffer that one row fills, as arrays."""

    pixels: NDArray[np.uint8]
    """uint8[N, H, W, 3], the images of the row."""

    token_ids: NDArray[np.int64]
    """int64[S], like the three below."""

    labels: NDArray[np.int64]
    position_ids: NDArray[np.int64]
    segment_ids: NDArray[np.int64]


class BatchBuffer:
    """The memory of one micro-batch, divided among its rows: one thread fills each."""

    def __init__(self, pixels: Tensor, tokens: Tensor, *, images_per_row: Sequence[int]):
        """Divide the memory among rows with these numbers of images; use `BufferPool.take`."""
        ends = offsets_from_counts(images_per_row).tolist()
        self._images = [slice(start, end) for start, end in itertools.pairwise(ends)]
        self.pixels = pixels
        """uint8[N, H, W, 3]: channels last in memory, as images are decoded."""

        self.tokens = tokens
        """int64[4, B, S]: token ids, labels, position ids, segment ids."""

    @property
    def nbytes(self) -> int:
        """Size of all arrays in bytes."""
        return self.pixels.nbytes + self.tokens.nbytes

    def row(self, number: int) -> RowBuffer:
        """Return the part of a row."""
        return RowBuffer(self.pixels.numpy()[self._images[number]], *self.tokens.numpy()[:, number])


class BufferPool:
    """Gives the buffers of one pass over a loader."""

    def __init__(self, *, tokens_per_row: int, side: int, pin_memory: bool, max_free: int):
        """Allocate nothing yet.

        Args:
            side: of the square images, in pixels.
            pin_memory: page-locked, so that a GPU copies it without waiting; torch reuses it.
            max_free: the most free buffers to keep for later batches.
        """
        self._tokens_per_row, self._side = tokens_per_row, side
        self._pin_memory = pin_memory
        self._pixels = BlockPool(max_free=max_free)
        self._tokens = BlockPool(max_free=max_free)

    def take(self, images_per_row: Sequence[int]) -> BatchBuffer:
        """Return a buffer for rows with these numbers of images, its contents undefined."""
        pixels = (sum(images_per_row), self._side, self._side, 3)
        tokens = (4, len(images_per_row), self._tokens_per_row)
        if self._pin_memory:
            return BatchBuffer(
                torch.empty(pixels, dtype=torch.uint8, pin_memory=True),
                torch.empty(tokens, dtype=torch.int64, pin_memory=True),
                images_per_row=images_per_row,
            )
        return BatchBuffer(
            self._pixels.tensor(pixels, np.uint8),
            self._tokens.tensor(tokens, np.int64),
            images_per_row=images_per_row,
        )
