"""What an image file is shows in its first bytes; what is beyond the limits is refused by them."""

import io

import pytest

from vchat.shards.pixels.header import read_header
from vchat.shards.pixels.limits import (
    MAX_SOURCE_PIXELS,
    MAX_SOURCE_SIDE,
    MAX_STORED_PIXELS,
    MAX_STORED_SIDE,
    PictureError,
    check_source_size,
    check_stored_size,
)
from vchat_testing.raw_data import IMAGES, PLAIN_JPEGS


@pytest.mark.parametrize(
    "kind, reason",
    [("tiny", "tiny_image"), ("huge", "huge_image"), ("text", "undecodable_image")],
)
def test_what_the_header_shows_is_refused_before_decoding(kind, reason):
    data = IMAGES[kind](0)
    with pytest.raises(PictureError) as caught:
        read_header(io.BytesIO(data), num_bytes=len(data), name="a.jpg")
    assert caught.value.reason == reason


def test_a_truncated_picture_still_has_a_header():
    data = IMAGES["truncated"](0)
    assert read_header(io.BytesIO(data), num_bytes=len(data), name="a").size == (640, 480)


@pytest.mark.parametrize("kind", PLAIN_JPEGS)
def test_a_header_says_the_same_with_and_without_the_rest(kind):
    data = PLAIN_JPEGS[kind]
    header = read_header(io.BytesIO(data[:1000]), num_bytes=len(data), name="a")
    assert (header.format, header.size, header.num_bytes) == ("JPEG", (320, 240), len(data))


def test_limits_are_the_largest_sizes_that_pass():
    check_source_size((MAX_SOURCE_SIDE, MAX_SOURCE_PIXELS // MAX_SOURCE_SIDE), name="a")
    check_stored_size((MAX_STORED_SIDE, MAX_STORED_PIXELS // MAX_STORED_SIDE), name="a")
    for size in ((MAX_SOURCE_SIDE + 1, 2), (10_000, 8_001)):
        with pytest.raises(PictureError, match="a: "):
            check_source_size(size, name="a")
    for size in ((MAX_STORED_SIDE + 1, 1), (MAX_STORED_SIDE, 4097)):
        with pytest.raises(PictureError, match="at most 16384 a side and 67108864 in all"):
            check_stored_size(size, name="a")
