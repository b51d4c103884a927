"""Offsets of groups that lie one after the other."""

import numpy as np
import pytest

from vchat.base.arrays import offsets_from_counts


@pytest.mark.parametrize(
    "counts",
    [[2, 0, 3], (2, 0, 3), np.array([2, 0, 3], np.uint8), iter([2, 0, 3])],
    ids=["list", "tuple", "array", "iterator"],
)
def test_offsets_say_where_each_group_begins_and_the_last_ends(counts):
    offsets = offsets_from_counts(counts)
    assert offsets.tolist() == [0, 2, 2, 5]
    assert offsets.dtype == np.int64


def test_no_groups_have_one_offset():
    assert offsets_from_counts([]).tolist() == [0]


def test_sums_of_narrow_counts_do_not_overflow():
    assert offsets_from_counts(np.full(3, 2**31 - 1, np.int32))[-1] == 3 * (2**31 - 1)
