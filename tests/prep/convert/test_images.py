"""Images come out upright, opaque and of the right size; damaged ones are rejected."""

import contextlib
import io

import numpy as np
import pytest
from PIL import Image

from vchat.prep.convert.images import ImagePolicy, encode_for_shard
from vchat.prep.raw.rejected import Rejected
from vchat.shards.pixels.header import read_header, sniff_format
from vchat.shards.pixels.limits import PictureError
from vchat.shards.pixels.resize import size_to_store
from vchat_testing.raw_data import (
    IMAGES,
    draw_picture,
    encode_picture,
    exif_rotated,
    palette_png,
    sixteen_bit_png,
)

PNG = ImagePolicy(size=24, format="png")


def pixels(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    assert image.mode == "RGB"
    return np.asarray(image)


def test_the_shorter_side_is_resized_and_never_enlarged():
    assert size_to_store((640, 480), shorter_side=224) == (299, 224)
    assert size_to_store((480, 640), shorter_side=224) == (224, 299)
    assert size_to_store((100, 80), shorter_side=224) == (100, 80)
    assert size_to_store((30_000, 2), shorter_side=1) == (15_000, 1)


def test_an_exif_rotation_is_applied():
    stored = encode_for_shard(
        exif_rotated(0), ImagePolicy(size=36, format="png"), key="a", name="a"
    )
    assert stored.size == stored.original_size == (36, 48)
    assert pixels(stored.data)[2, -2].max() < 100, "the dark corner is now at the top right"


def test_a_rotation_is_found_behind_a_profile_that_looks_like_the_start_of_pixels():
    rotated = exif_rotated(0)
    profile = b"\xff\xe2\0\x10ICC\xff\xda\xff\xda\xff\xda12345"
    stored = encode_for_shard(
        rotated[:2] + profile + rotated[2:], ImagePolicy(size=36, format="png"), key="a", name="a"
    )
    assert stored.size == (36, 48)


def test_transparency_becomes_white():
    stored = encode_for_shard(palette_png(0), ImagePolicy(size=36, format="png"), key="a", name="a")
    found = pixels(stored.data)
    corner, rest = found[1, 1], found[20, 40]
    assert (corner == 255).all()
    assert rest.argmax() == 0
    assert rest[0] > 200 > 60 > rest[1]


def test_sixteen_bits_are_scaled_to_eight():
    stored = encode_for_shard(
        sixteen_bit_png(), ImagePolicy(size=36, format="png"), key="a", name="a"
    )
    row = pixels(stored.data)[10]
    assert row[0].tolist() == [0, 0, 0]
    assert row[-1].tolist() == [255, 255, 255]
    assert abs(int(row[24, 0]) - 130) < 4


def test_a_gif_gives_its_first_frame():
    frames = [draw_picture(0), draw_picture(2)]
    gif = encode_picture(frames[0], "GIF", save_all=True, append_images=frames[1:])
    stored = encode_for_shard(gif, PNG, key="a", name="a")
    assert pixels(stored.data)[20, 25].argmax() == 0


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


def test_cmyk_and_grey_become_rgb():
    for mode in ("CMYK", "L"):
        stored = encode_for_shard(
            encode_picture(draw_picture(4).convert(mode)), PNG, key="a", name="a"
        )
        assert pixels(stored.data).shape == (24, 32, 3)


@pytest.mark.parametrize(
    "kind, reason",
    [("tiny", "tiny_image"), ("huge", "huge_image"), ("text", "undecodable_image")],
)
def test_what_the_header_shows_is_rejected_before_decoding(kind, reason):
    data = IMAGES[kind](0)
    with pytest.raises(PictureError) as caught:
        read_header(io.BytesIO(data), num_bytes=len(data), name="a.jpg")
    assert caught.value.reason == reason


def test_a_truncated_picture_shows_only_when_it_is_decoded():
    data = IMAGES["truncated"](0)
    assert read_header(io.BytesIO(data), num_bytes=len(data), name="a").size == (640, 480)
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


def drawn_noisy(mode: str = "RGB") -> Image.Image:
    """Return a picture that every step of a JPEG coder changes."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    return coarse.resize((320, 240)).convert(mode)


PLAIN = {
    "baseline": encode_picture(drawn_noisy(), quality=90),
    "progressive": encode_picture(drawn_noisy(), quality=80, progressive=True),
    "unsubsampled": encode_picture(drawn_noisy(), quality=95, subsampling=0),
    "grey": encode_picture(drawn_noisy("L")),
    "cmyk": encode_picture(drawn_noisy("CMYK")),
    "with bytes after its end": encode_picture(drawn_noisy()) + b"more",
    "with bytes before a marker": encode_picture(drawn_noisy())[:-2] + b"\x00\x17\xff\xd9",
}


@pytest.mark.parametrize("kind", PLAIN)
def test_a_jpeg_has_the_pixels_that_pillow_reads(kind):
    stored = encode_for_shard(PLAIN[kind], ImagePolicy(size=240, format="png"), key="a", name="a")
    wanted = np.asarray(Image.open(io.BytesIO(PLAIN[kind])).convert("RGB"))
    assert (pixels(stored.data) == wanted).all()


def test_a_smaller_image_is_within_one_grey_level_of_pillows():
    stored = encode_for_shard(
        PLAIN["baseline"], ImagePolicy(size=100, format="png"), key="a", name="a"
    )
    whole = Image.open(io.BytesIO(PLAIN["baseline"]))
    wanted = np.asarray(whole.resize(stored.size, Image.Resampling.BICUBIC), dtype=int)
    assert np.abs(pixels(stored.data) - wanted).max() == 1


@pytest.mark.parametrize("kind", PLAIN)
def test_a_header_says_the_same_with_and_without_the_rest(kind):
    data = PLAIN[kind]
    header = read_header(io.BytesIO(data[:1000]), num_bytes=len(data), name="a")
    assert (header.format, header.size, header.num_bytes) == ("JPEG", (320, 240), len(data))
