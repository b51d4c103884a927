"""Keyed hashes are the same everywhere, and depend on every byte of a key."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vchat.shards.plan.ordering import (
    TextColumn,
    key_hashes,
    make_sort_keys,
    mix64,
    sort_within_groups,
)

GOLDEN_HASHES = [16294208416658607535, 16775897972666590487, 1381468937419440783]
GOLDEN_SORT_KEYS = [18396819878501383114, 15671939473213953310, 3278310289680051146]
WORD = (1 << 64) - 1


def mixed(value: int) -> int:
    """`mix64` of one number, in Python integers."""
    value = (value + 0x9E3779B97F4A7C15) & WORD
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & WORD
    return value ^ (value >> 31)


def hash_of(text: str) -> int:
    """`key_hashes` of one string, in Python integers."""
    data = text.encode()
    value = mixed(len(data))
    for start in range(0, len(data), 8):
        value = mixed(value ^ int.from_bytes(data[start : start + 8], "little"))
    return value


@given(st.lists(st.text(max_size=40)))
def test_hashes_equal_the_definition_word_by_word(texts: list[str]) -> None:
    column = TextColumn.of(texts)
    assert key_hashes(column).tolist() == [hash_of(text) for text in texts]
    assert [column[i] for i in range(len(column))] == texts


def test_hashes_and_sort_keys_are_the_golden_ones() -> None:
    """The order of every published plan hangs on these numbers: they never change."""
    hashes = key_hashes(TextColumn.of(["", "llava/1", "ocr_vqa/0001234567"]))
    assert hashes.tolist() == GOLDEN_HASHES
    assert make_sort_keys(hashes, seed=42, epoch=3, purpose=1).tolist() == GOLDEN_SORT_KEYS
    assert mix64(np.zeros(1, np.uint64)).tolist() == [16294208416658607535]


@given(st.integers(0, 1 << 62), st.integers(0, 1000))
def test_seed_epoch_and_purpose_each_change_the_sort_keys(seed: int, epoch: int) -> None:
    hashes = np.arange(4, dtype=np.uint64)
    keys = [
        make_sort_keys(hashes, seed=seed, epoch=epoch, purpose=1),
        make_sort_keys(hashes, seed=seed + 1, epoch=epoch, purpose=1),
        make_sort_keys(hashes, seed=seed, epoch=epoch + 1, purpose=1),
        make_sort_keys(hashes, seed=seed, epoch=epoch, purpose=2),
    ]
    assert len({tuple(k.tolist()) for k in keys}) == 4
    assert all(len(set(k.tolist())) == 4 for k in keys)


def test_groups_come_first_then_keys_then_numbers() -> None:
    groups = np.array([1, 0, 1, 0, 0])
    sort_keys = np.array([1 << 63, 1 << 63, 0, 1 << 63, 5 << 60], dtype=np.uint64)
    assert sort_within_groups(groups, sort_keys).tolist() == [4, 1, 3, 2, 0]
    assert sort_within_groups(np.zeros(5, np.int64), sort_keys).tolist() == [2, 4, 0, 1, 3]
