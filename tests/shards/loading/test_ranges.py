"""Ranges cover each sample once, and little more."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vchat.shards.loading.ranges import LARGEST_RANGE, REQUEST_BYTES, merge_spans

SPANS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 400), st.integers(1, 3 << 20)), max_size=40
)


def as_arrays(spans: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return shard, start and end of (shard, place, size), laid out so that none overlap."""
    shard, place, size = np.array(spans, np.int64).reshape(-1, 3).T
    start = place * (4 << 20) // 7
    return shard, start, start + np.minimum(size, (4 << 20) // 7)


@given(SPANS)
def test_every_sample_is_in_exactly_one_range_that_covers_it(
    spans: list[tuple[int, int, int]],
) -> None:
    shard, start, end = as_arrays(spans)
    ranges = merge_spans(shard, start, end)
    wanted = [place for found in ranges for place in found.samples.tolist()]
    assert sorted(wanted) == list(range(len(spans)))
    for found in ranges:
        assert (shard[found.samples] == found.shard).all()
        assert found.start == start[found.samples].min()
        assert found.end == end[found.samples].max()


@given(SPANS)
def test_a_range_is_bounded_and_has_no_large_gap(spans: list[tuple[int, int, int]]) -> None:
    shard, start, end = as_arrays(spans)
    for found in merge_spans(shard, start, end):
        order = found.samples[np.argsort(start[found.samples], kind="stable")]
        gaps = start[order[1:]] - np.maximum.accumulate(end[order])[:-1]
        assert (gaps <= REQUEST_BYTES).all()
        assert len(order) == 1 or found.end - found.start <= LARGEST_RANGE


def test_neighbours_share_a_request_and_the_first_sample_is_requested_first() -> None:
    shard = np.array([1, 0, 0, 1])
    start = np.array([0, 5_000_000, 1_000, 60_000])
    ranges = merge_spans(shard, start, start + 50_000)
    found = [(r.shard, r.start, r.end, r.samples.tolist()) for r in ranges]
    assert found == [
        (1, 0, 110_000, [0, 3]),
        (0, 5_000_000, 5_050_000, [1]),
        (0, 1_000, 51_000, [2]),
    ]
