"""Rows as the model sees them."""

from __future__ import annotations

import numpy as np
import pytest

from vchat.shards.loading.buffers import BufferPool
from vchat.shards.loading.collate import Batch, LoadedSample, fill_row, repeat_slots

IMAGE = 99


def test_slots_are_repeated_and_never_supervised() -> None:
    ids, supervised = repeat_slots(
        np.array([1, IMAGE, IMAGE, 7, 8], np.int32),
        np.array([0, 0, 0, 1, 1], np.bool_),
        image_id=IMAGE,
        positions=np.array([2, 3]),
    )
    assert ids.tolist() == [1, IMAGE, IMAGE, IMAGE, IMAGE, IMAGE, 7, 8]
    assert supervised.tolist() == [False] * 6 + [True] * 2


def test_slots_without_an_image_are_an_error() -> None:
    with pytest.raises(ValueError, match="2 image slots for 1 images"):
        repeat_slots(
            np.array([IMAGE, IMAGE], np.int32),
            np.zeros(2, np.bool_),
            image_id=IMAGE,
            positions=np.array([2]),
        )


def sample(key: str, ids: list[int], *, supervised: list[int]) -> LoadedSample:
    return LoadedSample(
        key=key,
        ids=np.array(ids, np.int32),
        supervised=np.array(supervised, np.bool_),
    )


def test_rows_hold_their_samples_one_after_the_other() -> None:
    first = sample("a", [5, IMAGE, 6], supervised=[0, 0, 1])
    second = sample("b", [7, 8], supervised=[0, 1])
    third = sample("c", [9, IMAGE], supervised=[0, 0])
    buffer = BufferPool(tokens_per_row=7, side=2, pin_memory=False, max_free=1).take([1, 0, 1])
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    for number, (samples, lengths, positions) in enumerate(
        [([first, second], [4, 2], [2]), ([], [], []), ([third], [2], [1])]
    ):
        fill_row(
            samples,
            buffer.row(number),
            lengths=np.array(lengths, np.int64),
            positions=np.array(positions, np.int64),
            image_id=IMAGE,
            pad_id=2,
        )
    buffer.row(0).pixels[:] = pixels[:1]
    buffer.row(2).pixels[:] = pixels[1:]
    batch = Batch.from_buffer(buffer, [["a", "b"], [], ["c"]], num_supervised=2)
    assert batch.token_ids.tolist() == [
        [5, IMAGE, IMAGE, 6, 7, 8, 2],
        [2] * 7,
        [9, IMAGE, 2, 2, 2, 2, 2],
    ]
    assert batch.labels.tolist() == [
        [-100, -100, -100, 6, -100, 8, -100],
        [-100] * 7,
        [-100] * 7,
    ]
    assert batch.position_ids.tolist() == [
        [0, 1, 2, 3, 0, 1, 0],
        [0] * 7,
        [0, 1, 0, 0, 0, 0, 0],
    ]
    assert batch.segment_ids.tolist() == [[1, 1, 1, 1, 2, 2, 0], [0] * 7, [1, 1, 0, 0, 0, 0, 0]]
    assert batch.pixels.tolist() == pixels.transpose(0, 3, 1, 2).tolist()
    assert batch.keys == [["a", "b"], [], ["c"]]
    assert batch.num_supervised == 2
