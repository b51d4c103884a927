"""Tiles: which grid an image gets, and that plan and loader count the same."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vchat.shards.loading.loader import Loader
from vchat.shards.pixels.decode import decode_tiles_into
from vchat.shards.pixels.grid import ImageGrid, Tiling
from vchat.shards.pixels.tiles import tile_grids
from vchat.shards.plan.arguments import PlanArguments
from vchat.shards.plan.epoch import plan_epoch
from vchat.shards.plan.summary import summarize_plan
from vchat_testing.toy import toy_shards

TILING = Tiling(max_tiles=6, side=16)


def grid_of(width, height, *, tiling=TILING):
    return tuple(tile_grids(np.array([(width, height)]), tiling=tiling)[0].tolist())


def arguments(**changes):
    given = {
        "split": "train",
        "seed": 0,
        "epoch": 0,
        "tokens_per_row": 300,
        "images_per_row": 14,
        "positions_per_image": 5,
        "shuffle_window_shards": 2,
    }
    return PlanArguments(**{**given, **changes})


def test_an_image_gets_the_grid_into_which_it_shrinks_least():
    assert grid_of(16, 16) == (1, 1)
    assert grid_of(23, 16) == (1, 1)  # one and a half tiles are needed for a second
    assert grid_of(24, 16) == (2, 1)
    assert grid_of(48, 32) == (3, 2)
    assert grid_of(32, 48) == (2, 3)
    assert grid_of(400, 16) == (6, 1)
    assert grid_of(100, 100, tiling=Tiling(max_tiles=5, side=16)) == (2, 2)
    assert grid_of(597, 448, tiling=Tiling(max_tiles=4, side=224)) == (2, 2)
    assert grid_of(597, 448, tiling=Tiling(max_tiles=12, side=224)) == (3, 2)


@given(
    st.lists(st.tuples(st.integers(1, 4000), st.integers(1, 4000)), min_size=1, max_size=5),
    st.integers(2, 12),
    st.integers(8, 448),
)
def test_a_grid_has_few_enough_tiles_and_is_of_the_image_alone(sizes, max_tiles, side):
    tiling = Tiling(max_tiles=max_tiles, side=side)
    together = tile_grids(np.array(sizes), tiling=tiling)
    assert (together >= 1).all()
    assert (together.prod(axis=1) <= max_tiles).all()
    alone = [tile_grids(np.array([size]), tiling=tiling)[0] for size in sizes]
    assert np.array_equal(together, alone)
    turned = tile_grids(np.array(sizes)[:, ::-1], tiling=tiling)
    assert np.array_equal(turned.prod(axis=1), together.prod(axis=1))
    small = (np.array(sizes) < side).all(axis=1)
    grid = ImageGrid(positions_per_input=1, tiling=tiling)
    assert (grid.num_inputs(np.array(sizes))[small] == 1).all()


def test_a_cut_image_takes_the_positions_of_its_tiles_and_of_its_small_view():
    sizes = np.array([(16, 16), (48, 32)])
    assert ImageGrid(positions_per_input=5).num_positions(sizes).tolist() == [5, 5]
    assert ImageGrid(positions_per_input=5, tiling=TILING).num_positions(sizes).tolist() == [
        5,
        7 * 5,
    ]


def test_tiles_are_the_parts_of_the_image_row_by_row_behind_the_whole():
    parts = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    image = np.repeat(np.repeat(parts, 16, axis=0), 16, axis=1)
    file = io.BytesIO()
    Image.fromarray(np.stack([image] * 3, axis=-1)).save(file, "PNG")
    pixels = np.zeros((7, 16, 16, 3), np.uint8)
    decode_tiles_into(pixels, file.getvalue(), size=(48, 32), tiling=TILING)
    assert [np.unique(tile).tolist() for tile in pixels[1:]] == [[value] for value in parts.flat]
    assert np.abs(pixels[0, 0, 0].astype(int) - parts[0, 0]).max() < 8
    assert np.abs(pixels[0, -1, -1].astype(int) - parts[1, 2]).max() < 8


def test_an_image_of_another_size_than_was_planned_is_an_error():
    file = io.BytesIO()
    Image.new("RGB", (32, 48)).save(file, "PNG")
    with pytest.raises(ValueError, match=r"an image of 32x48 pixels, the index says 48x32"):
        decode_tiles_into(
            np.zeros((7, 16, 16, 3), np.uint8), file.getvalue(), size=(48, 32), tiling=TILING
        )


def test_the_loader_delivers_what_the_plan_counted(tmp_path):
    shards = toy_shards(tmp_path, num_samples=9, image_size=(40, 32))  # 3 x 2 tiles
    planned = arguments(tiling=TILING)
    loader = Loader(shards, planned, rows_per_step=2, image_size=16)
    plan = loader.plan(0)
    summary = summarize_plan(plan, rows_per_step=2)
    num_steps = plan.num_steps(2)
    batches = [batch for batch, _ in zip(loader, range(2 * num_steps), strict=False)]
    image_id = shards.manifest["tokenizer"]["image_id"]
    slots = sum(int((batch.token_ids == image_id).sum()) for batch in batches)
    inputs = sum(len(batch.pixels) for batch in batches)
    assert slots == summary.image_positions == 9 * 2 * 7 * 5
    assert inputs * 5 == slots
    used = sum(int((batch.segment_ids != 0).sum()) for batch in batches)
    assert used == summary.text_tokens + summary.image_positions
    assert max(len(batch.pixels) for batch in batches) <= planned.images_per_row


def test_an_image_of_more_tiles_than_a_row_may_hold_is_an_error_of_the_plan(tmp_path):
    shards = toy_shards(tmp_path, num_samples=2, image_size=(40, 32))
    loader = Loader(
        shards, arguments(tiling=TILING, images_per_row=13), rows_per_step=1, image_size=16
    )
    with pytest.raises(ValueError, match=r"13 images; the first is .* and 14 images"):
        loader.plan(0)


def test_tiling_is_named_by_the_digest_of_a_plan_only_where_there_is_some(tmp_path):
    index = Loader(toy_shards(tmp_path), arguments(), rows_per_step=1, image_size=16).index
    assert "tiling" not in arguments().describe()
    assert arguments(tiling=TILING).describe()["tiling"] == {"max_tiles": 6, "side": 16}
    plain, tiled = (plan_epoch(index, arguments(tiling=tiling)) for tiling in (None, TILING))
    assert plain.digest != tiled.digest


def test_tiles_of_another_side_than_the_images_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="tiles of 16 pixels do not go with images of 32"):
        Loader(toy_shards(tmp_path), arguments(tiling=TILING), rows_per_step=1, image_size=32)
