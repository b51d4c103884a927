"""Rows as the model sees them."""

from __future__ import annotations

import numpy as np
import pytest
from vchat.shards.collate import LoadedSample, collated, with_slots_repeated

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
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)
    batch = collated([[first, second], [], [third]], pixels=pixels, tokens_per_row=6, pad_id=2)
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
    assert batch.pixels.tolist() == pixels.tolist()
    assert batch.keys == [["a", "b"], [], ["c"]]
    assert batch.num_supervised == 2
