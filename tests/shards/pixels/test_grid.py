"""Every image takes the stated number of positions."""

from __future__ import annotations

import numpy as np
import pytest

from vchat.shards.pixels.grid import ImageGrid


def test_every_image_takes_the_same_number_of_positions() -> None:
    sizes = np.array([[224, 224], [300, 224], [224, 1000]])
    assert ImageGrid(positions_per_input=257).num_positions(sizes).tolist() == [257, 257, 257]
    assert ImageGrid(positions_per_input=257).num_positions(sizes[:0]).shape == (0,)


def test_an_image_without_a_position_is_refused() -> None:
    with pytest.raises(ValueError, match="positions_per_input = 0"):
        ImageGrid(positions_per_input=0)
