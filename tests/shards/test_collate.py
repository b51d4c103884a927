"""Rows as the model sees them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from vchat.shards.collate import BatchRoom, LoadedSample, lay_out, with_slots_repeated

IMAGE = 99


def test_slots_are_repeated_and_never_supervised() -> None:
    ids, supervised = with_slots_repeated(
        np.array([1, IMAGE, IMAGE, 7, 8], np.int32),
        np.array([0, 0, 0, 1, 1], np.bool_),
        image_id=IMAGE,
        positions=np.array([2, 3]),
    )
    assert ids.tolist() == [1, IMAGE, IMAGE, IMAGE, IMAGE, IMAGE, 7, 8]
    assert supervised.tolist() == [False] * 6 + [True] * 2


def test_slots_without_an_image_are_an_error() -> None:
    with pytest.raises(ValueError, match="2 image slots for 1 images"):
        with_slots_repeated(
            np.array([IMAGE, IMAGE], np.int32),
            np.zeros(2, np.bool_),
            image_id=IMAGE,
            positions=np.array([2]),
        )


def test_a_pinned_batch_is_page_locked_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch locks pages only where there is a GPU, so the test sees what it is asked for."""
    asked: list[bool] = []
    empty = torch.empty

    def noting(*shape: object, pin_memory: bool, **options: object) -> torch.Tensor:
        asked.append(pin_memory)
        return empty(*shape, **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(torch, "empty", noting)
    for pinned in (False, True):
        room = BatchRoom([2], tokens_per_row=6, side=4, pinned=pinned)
        batch = room.batch([["a"]], num_supervised=0)
        assert asked == [pinned] * 2
        asked.clear()
        assert batch.pixels.data_ptr() == room.pixels.data_ptr()
        assert batch.labels.data_ptr() == room.tokens[1].data_ptr()


def sample(key: str, ids: list[int], *, supervised: list[int]) -> LoadedSample:
    return LoadedSample(
        key=key,
        ids=np.array(ids, np.int32),
        supervised=np.array(supervised, np.bool_),
    )


def test_rows_hold_their_samples_one_after_the_other() -> None:
    first = sample("a", [5, 99, 6], supervised=[0, 0, 1])
    second = sample("b", [7, 8], supervised=[0, 1])
    third = sample("c", [9, 99], supervised=[0, 0])
    room = BatchRoom([1, 0, 1], tokens_per_row=6, side=2, pinned=False)
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    for number, samples in enumerate([[first, second], [], [third]]):
        lay_out(samples, room.row(number), pad_id=2)
    room.row(0).pixels[:] = pixels[:1]
    room.row(2).pixels[:] = pixels[1:]
    batch = room.batch([["a", "b"], [], ["c"]], num_supervised=2)
    assert batch.token_ids.tolist() == [
        [5, 99, 6, 7, 8, 2],
        [2, 2, 2, 2, 2, 2],
        [9, 99, 2, 2, 2, 2],
    ]
    assert batch.labels.tolist() == [
        [-100, -100, 6, -100, 8, -100],
        [-100] * 6,
        [-100] * 6,
    ]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1, 0], [0] * 6, [0, 1, 0, 0, 0, 0]]
    assert batch.segment_ids.tolist() == [[1, 1, 1, 2, 2, 0], [0] * 6, [1, 1, 0, 0, 0, 0]]
    assert batch.pixels.tolist() == pixels.transpose(0, 3, 1, 2).tolist()
    assert batch.keys == [["a", "b"], [], ["c"]]
    assert batch.num_supervised == 2
