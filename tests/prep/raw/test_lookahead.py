"""Items keep their order; each is prefetched `depth` items in advance, or all come in groups."""

import pytest

from vchat.prep.raw.lookahead import group_by_weight, with_prefetch


@pytest.mark.parametrize("depth, prefetched_before", [(0, [1, 2, 3, 4, 5]), (2, [3, 4, 5, 5, 5])])
def test_items_keep_their_order_and_are_prefetched_in_advance(depth, prefetched_before):
    prefetched = []
    seen = [
        (item, len(prefetched)) for item in with_prefetch(range(5), prefetched.append, depth=depth)
    ]
    assert seen == list(zip(range(5), prefetched_before, strict=True))
    assert prefetched == list(range(5))


def test_a_group_ends_with_the_item_that_makes_it_heavy_enough():
    groups = list(group_by_weight([3, 1, 9, 2, 2], weight=lambda item: item, max_weight=4))
    assert groups == [[3, 1], [9], [2, 2], []]
