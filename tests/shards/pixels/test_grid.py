"""Every image takes the stated number of positions."""

from __future__ import annotations

import numpy as np
import pytest

from vchat.shards.pixels.grid import num_positions


def test_every_image_takes_the_same_number_of_positions() -> None:
    sizes = np.array([[224, 224], [300, 224], [224, 1000]])
    assert num_positions(sizes, per_image=257).tolist() == [257, 257, 257]
    assert num_positions(sizes[:0], per_image=257).shape == (0,)


def test_an_image_without_a_position_is_refused() -> None:
    with pytest.raises(ValueError, match="per_image = 0"):
        num_positions(np.zeros((1, 2), np.int64), per_image=0)
