"""Images are encoded as the policy says; what cannot be used is rejected."""

import contextlib
import io

import numpy as np
import pytest
from PIL import Image

from vchat.prep.convert.images import ImagePolicy, encode_for_shard
from vchat.prep.raw.rejected import Rejected
from vchat.shards.pixels.header import sniff_format
from vchat_testing.raw_data import (
    IMAGES,
    draw_picture,
    encode_picture,
    exif_rotated,
)

PNG = ImagePolicy(size=24, format="png")


@pytest.mark.parametrize("format, extension", [("jpeg", "jpg"), ("webp", "webp"), ("png", "png")])
def test_each_format_gives_what_its_extension_says(format, extension):
    stored = encode_for_shard(
        encode_picture(draw_picture(1)), ImagePolicy(size=24, format=format), key="a", name="a"
    )
    assert stored.extension == extension
    assert sniff_format(stored.data[:16]) == format.upper()
    assert Image.open(io.BytesIO(stored.data)).size == stored.size == (32, 24)


def test_keep_stores_the_source_bytes_if_nothing_must_change():
    policy = ImagePolicy(size=36, format="keep")
    plain, rotated = encode_picture(draw_picture(1)), exif_rotated(1)
    assert encode_for_shard(plain, policy, key="a", name="a").data == plain
    assert encode_for_shard(rotated, policy, key="a", name="a").data != rotated
    assert encode_for_shard(plain, ImagePolicy(size=24, format="keep"), key="a", name="a").size == (
        32,
        24,
    )


def test_a_truncated_picture_shows_only_when_it_is_decoded():
    data = IMAGES["truncated"](0)
    with pytest.raises(Rejected, match="undecodable_image"):
        encode_for_shard(data, PNG, key="a", name="a")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damage_anywhere_is_a_rejection_and_nothing_else():
    rng = np.random.default_rng(0)
    sources = [IMAGES[kind](1) for kind in ("good", "gif", "png16", "palette", "exif")]
    sources += [encode_picture(draw_picture(1), format) for format in ("WEBP", "BMP", "TIFF")]
    for data in sources:
        for _ in range(40):
            damaged = bytearray(data)
            for place in rng.integers(0, len(data), size=8):
                damaged[place] = rng.integers(256)
            with contextlib.suppress(Rejected):
                assert min(encode_for_shard(bytes(damaged), PNG, key="a", name="a").size) > 0


@pytest.mark.parametrize("bad", [{"size": 1}, {"quality": 0}, {"quality": 101}])
def test_a_policy_outside_its_range_is_refused(bad):
    with pytest.raises(ValueError, match="want"):
        ImagePolicy(**bad)
