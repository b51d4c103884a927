"""Buffers of micro-batches are used again, but never while anything refers to them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vchat.shards.loading.buffers import BlockPool, BufferPool
from vchat.shards.loading.collate import Batch


def test_memory_is_used_again_only_when_no_view_of_it_is_left() -> None:
    memory = BlockPool(max_free=2)
    first = memory.tensor((4, 8), np.int64)
    address = first.data_ptr()
    row = first[2].numpy()
    del first
    second = memory.tensor((4, 8), np.int64)
    assert second.data_ptr() != address, "a row of the first is still there"
    del row
    third = memory.tensor((3, 7), np.int64)
    assert third.data_ptr() == address


def test_a_block_that_is_too_small_is_replaced() -> None:
    memory = BlockPool(max_free=1)
    del_me = memory.tensor((8,), np.uint8)
    del del_me
    large = memory.tensor((1_000,), np.uint8)
    large.fill_(7)
    address = large.data_ptr()
    del large
    assert memory.tensor((1_100,), np.uint8).data_ptr() == address, "blocks are larger than needed"


def test_free_memory_is_bounded() -> None:
    memory = BlockPool(max_free=2)
    tensors = [memory.tensor((16,), np.uint8) for _ in range(5)]
    addresses = {one.data_ptr() for one in tensors}
    del tensors
    again = [memory.tensor((16,), np.uint8) for _ in range(2)]
    assert {one.data_ptr() for one in again} <= addresses
    assert len(memory._free) == 0


def test_a_pinned_batch_is_page_locked_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch locks pages only where there is a GPU, so the test sees what is asked of it."""
    pinned_calls: list[bool] = []
    empty = torch.empty

    def noting(*shape: object, pin_memory: bool, **options: object) -> torch.Tensor:
        pinned_calls.append(pin_memory)
        return empty(*shape, **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(torch, "empty", noting)
    for pinned in (False, True):
        buffer = BufferPool(tokens_per_row=6, side=4, pin_memory=pinned, max_free=1).take([2])
        batch = Batch.from_buffer(buffer, [["a"]], num_supervised=0)
        assert pinned_calls == [True] * 2 * pinned
        pinned_calls.clear()
        assert batch.pixels.data_ptr() == buffer.pixels.data_ptr()
        assert batch.labels.data_ptr() == buffer.tokens[1].data_ptr()
