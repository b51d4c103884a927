"""Offsets of groups that lie one after the other."""

import numpy as np
import pytest

from vchat.base.arrays import offsets_from_counts, segment_sums


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


@pytest.mark.parametrize(
    "values, dtype",
    [([1, 2, 3, 4, 5], np.int32), ([0.5, 1.5, 2, 1, 2], np.float64), ([True] * 5, np.bool_)],
)
def test_a_segment_sum_is_that_of_its_values(values, dtype):
    array, offsets = np.array(values, dtype), offsets_from_counts([2, 0, 3])
    sums = segment_sums(array, offsets)
    assert sums.tolist() == [sum(values[:2]), 0, sum(values[2:])]
    assert sums.dtype == (np.float64 if dtype is np.float64 else np.int64)
