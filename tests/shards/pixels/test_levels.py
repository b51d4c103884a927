"""Pictures of 16 bits, 32 bits and floating point are scaled to what an eye would see."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vchat.shards.pixels.header import read_header
from vchat.shards.pixels.limits import PictureError
from vchat.shards.pixels.upright import decode_to_store
from vchat.train.chat.pictures import decode_picture
from vchat_testing.raw_data import IMAGES, encode_picture

GREY, COLOR, GREY_ALPHA, COLOR_ALPHA = 0, 2, 4, 6
"""Kinds of PNG by their channels."""

RAMP = np.linspace(0, 1, 16)[None, :, None] * np.ones((16, 1, 1))
"""[16, 16, 1]: 0 at the left, 1 at the right."""


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(values: np.ndarray, kind: int, *, transparent: list[int] | None = None) -> bytes:
    """Return a PNG of uint16[H, W, C]."""
    height, width = values.shape[:2]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    marked = b"" if transparent is None else chunk(b"tRNS", struct.pack(">3H", *transparent))
    parts = chunk(b"IHDR", header) + marked + chunk(b"IDAT", zlib.compress(lines))
    return b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IEND", b"")


def tiff(values: np.ndarray, *, order: str = "<", is_packed: bool = False) -> bytes:
    """Return a TIFF of [H, W, C], C 1 or 3, of any number type, in either byte order."""
    height, width, channels = values.shape
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    data = zlib.compress(data) if is_packed else data
    bits, kind = 8 * values.dtype.itemsize, {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = [
        (256, width),
        (257, height),
        (258, bits),
        (259, 8 if is_packed else 1),
        (262, 1 if channels == 1 else 2),
        (273, 8),
        (277, channels),
        (278, height),
        (279, len(data)),
        (339, kind),
    ]
    lists = 8 + len(data)
    entries = b""
    for tag, value in tags:
        is_list = channels > 1 and tag in (258, 339)
        count, place = (channels, lists) if is_list else (1, value)
        entries += struct.pack(f"{order}HHII", tag, 3 if is_list else 4, count, place)
        if is_list:
            data += struct.pack(f"{order}{channels}H", *[value] * channels)
            lists = 8 + len(data)
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(f"{order}I", 8 + len(data)) + data + directory


def decode(data: bytes) -> np.ndarray:
    """Return uint8[H, W, 3]; a header alone must tell that the picture is rescaled."""
    picture = decode_to_store(data, shorter_side=None, name="a")
    assert read_header(io.BytesIO(data), num_bytes=len(data), name="a").is_rescaled
    assert picture.is_rescaled
    assert not picture.is_unchanged
    assert (decode_picture(data, side=16).numpy() == picture.rgb.transpose(2, 0, 1)).all()
    return picture.rgb


def ramp_of(highest: int) -> np.ndarray:
    return np.rint(RAMP * highest).astype(np.uint16)


SEEN = np.rint(RAMP * 255)
INTEGERS = {
    "int32": np.rint(RAMP * 3e6 - 1e6).astype(np.int32),
    "uint32": np.rint(RAMP * 4e9).astype(np.uint32),
    "int16": np.rint(RAMP * 60_000 - 30_000).astype(np.int16),
    "float32": (RAMP * 0.5 - 0.25).astype(np.float32),
}


@pytest.mark.parametrize("highest", [1200, 4095, 65_535])
@pytest.mark.parametrize("kind", [GREY, COLOR])
def test_sixteen_bits_show_their_whole_range(kind, highest):
    values = np.repeat(ramp_of(highest), 3 if kind == COLOR else 1, axis=-1)
    for data in (png(values, kind), *(tiff(values, order=order) for order in "<>")):
        assert np.abs(decode(data) - SEEN).max() <= 1
    for order in "<>":
        assert np.abs(decode(tiff(values, order=order, is_packed=True)) - SEEN).max() <= 1


def test_sixteen_bits_from_4096_on_are_scaled_by_65535():
    assert decode(png(ramp_of(4096), GREY)).max() == 16
    assert decode(png(ramp_of(30_000), GREY)).max() == 117


@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("is_packed", [False, True])
def test_other_values_are_scaled_from_lowest_to_highest(kind, order, is_packed):
    data = tiff(INTEGERS[kind], order=order, is_packed=is_packed)
    if (kind, order) == ("uint32", ">"):  # a kind that Pillow does not read
        with pytest.raises(PictureError, match="TIFF header is damaged"):
            decode(data)
        return
    assert np.abs(decode(data) - SEEN).max() <= 1


@pytest.mark.parametrize("kind", [GREY_ALPHA, COLOR_ALPHA])
def test_transparency_of_sixteen_bits_becomes_white(kind):
    values = np.full((16, 16, 2 if kind == GREY_ALPHA else 4), 600, np.uint16)
    values[:, 8:, 0] = 1200
    values[..., -1] = 65_535
    values[4:8, :, -1] = 0
    found = decode(png(values, kind))
    assert (found[4:8] == 255).all()
    assert found[0, 0].tolist() == [128, 128, 128]
    assert found[0, 15, 0] == 255


def test_the_transparent_colour_of_sixteen_bits_becomes_white():
    values = np.zeros((16, 16, 3), np.uint16)
    values[0] = 257
    found = decode(png(values, COLOR, transparent=[257, 257, 257]))
    assert (found[0] == 255).all()
    assert (found[1:] == 0).all()


def test_infinite_values_and_those_that_are_no_numbers_do_not_count():
    values = (RAMP * 0.5).astype(np.float32)
    values[0, :3, 0] = np.nan, np.inf, -np.inf
    found = decode(tiff(values))
    assert found[0, :3, 0].tolist() == [0, 255, 0]
    assert np.abs(found[1:] - SEEN[1:]).max() <= 1


def test_a_picture_without_a_number_is_refused():
    with pytest.raises(PictureError, match="none of its values is a number"):
        decode_to_store(tiff(np.full((4, 4, 1), np.nan, np.float32)), shorter_side=None, name="a")


def test_a_deep_picture_that_counts_from_white_is_refused():
    file = io.BytesIO()
    ramp = Image.fromarray((RAMP[..., 0] * 65_535).astype(np.uint16))
    ramp.save(file, "TIFF", tiffinfo={262: 0})
    with pytest.raises(PictureError, match="0 is white"):
        decode_to_store(file.getvalue(), shorter_side=None, name="a")


def test_a_picture_of_one_value_is_black():
    assert decode(tiff(np.full((16, 16, 1), 0.7, np.float32))).max() == 0


def test_a_rescaled_picture_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    dark_left = Image.fromarray(np.repeat([[0, 65_535]], 16, axis=0).repeat(8, axis=1).astype("u2"))
    found = decode(encode_picture(dark_left, "PNG", exif=exif))
    assert (found[0].max(), found[-1].min()) == (0, 255)


@pytest.mark.parametrize("kind", ["good", "palette", "gif"])
def test_eight_bits_are_not_marked(kind):
    data = IMAGES[kind](0)
    assert not read_header(io.BytesIO(data), num_bytes=len(data), name="a").is_rescaled
    assert not decode_to_store(data, shorter_side=None, name="a").is_rescaled
