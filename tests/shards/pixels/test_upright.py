"""Pictures come out upright, opaque and of the right size, with the pixels that Pillow reads."""

import io

import numpy as np
import pytest
from PIL import Image

from vchat.shards.pixels.limits import PictureError
from vchat.shards.pixels.resize import size_to_store
from vchat.shards.pixels.upright import decode_to_store, read_upright_size
from vchat_testing.raw_data import (
    IMAGES,
    PLAIN_JPEGS,
    draw_picture,
    encode_picture,
    exif_rotated,
    palette_png,
    sixteen_bit_png,
)


def decode(data: bytes, *, shorter_side: int = 36) -> np.ndarray:
    """Return uint8[H, W, 3]; the size that is read without decoding must be the same."""
    picture = decode_to_store(data, shorter_side=shorter_side, name="a")
    assert read_upright_size(data, name="a") == picture.original_size
    return picture.rgb


def test_the_shorter_side_is_resized_and_never_enlarged():
    assert size_to_store((640, 480), shorter_side=224) == (299, 224)
    assert size_to_store((480, 640), shorter_side=224) == (224, 299)
    assert size_to_store((100, 80), shorter_side=224) == (100, 80)
    assert size_to_store((30_000, 2), shorter_side=1) == (15_000, 1)


def test_an_exif_rotation_is_applied():
    picture = decode_to_store(exif_rotated(0), shorter_side=36, name="a")
    assert picture.original_size == (36, 48)
    assert picture.rgb.shape == (48, 36, 3)
    assert picture.rgb[2, -2].max() < 100, "the dark corner is now at the top right"


def test_a_rotation_is_found_behind_a_profile_that_looks_like_the_start_of_pixels():
    rotated = exif_rotated(0)
    profile = b"\xff\xe2\0\x10ICC\xff\xda\xff\xda\xff\xda12345"
    assert decode(rotated[:2] + profile + rotated[2:]).shape == (48, 36, 3)


def test_transparency_becomes_white():
    found = decode(palette_png(0))
    corner, rest = found[1, 1], found[20, 40]
    assert (corner == 255).all()
    assert rest.argmax() == 0
    assert rest[0] > 200 > 60 > rest[1]


def test_sixteen_bits_are_scaled_to_eight():
    row = decode(sixteen_bit_png())[10]
    assert row[0].tolist() == [0, 0, 0]
    assert row[-1].tolist() == [255, 255, 255]
    assert abs(int(row[24, 0]) - 130) < 4


def test_a_gif_gives_its_first_frame():
    frames = [draw_picture(0), draw_picture(2)]
    gif = encode_picture(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(gif, shorter_side=24)[20, 25].argmax() == 0


@pytest.mark.parametrize("mode", ["CMYK", "L"])
def test_cmyk_and_grey_become_rgb(mode):
    data = encode_picture(draw_picture(4).convert(mode))
    assert decode(data, shorter_side=24).shape == (24, 32, 3)


@pytest.mark.parametrize("kind", PLAIN_JPEGS)
def test_a_jpeg_has_the_pixels_that_pillow_reads(kind):
    wanted = np.asarray(Image.open(io.BytesIO(PLAIN_JPEGS[kind])).convert("RGB"))
    assert (decode(PLAIN_JPEGS[kind], shorter_side=240) == wanted).all()


def test_a_smaller_image_is_within_one_grey_level_of_pillows():
    found = decode(PLAIN_JPEGS["baseline"], shorter_side=100)
    whole = Image.open(io.BytesIO(PLAIN_JPEGS["baseline"]))
    wanted = np.asarray(whole.resize(found.shape[1::-1], Image.Resampling.BICUBIC), dtype=int)
    assert np.abs(found - wanted).max() == 1


def test_a_truncated_picture_is_refused_when_it_is_decoded():
    with pytest.raises(PictureError, match="damaged") as caught:
        decode_to_store(IMAGES["truncated"](0), shorter_side=24, name="a")
    assert caught.value.reason == "undecodable_image"
