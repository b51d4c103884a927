"""Items keep their order, and each is announced as far ahead of its turn as was asked for."""

import pytest
from vchat.prep.ahead import announced


@pytest.mark.parametrize("ahead, heard_before", [(0, [1, 2, 3, 4, 5]), (2, [3, 4, 5, 5, 5])])
def test_items_keep_their_order_and_are_announced_ahead(ahead, heard_before):
    heard = []
    seen = [(item, len(heard)) for item in announced(range(5), heard.append, ahead=ahead)]
    assert seen == list(zip(range(5), heard_before, strict=True))
    assert heard == list(range(5))
