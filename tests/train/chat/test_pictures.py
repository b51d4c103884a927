import io

import numpy as np
import pytest
import torch
from PIL import Image

from vchat.shards.pixels.decode import decode_image
from vchat.train.chat.pictures import decode_picture


def encoded(image, format="PNG", **settings):
    file = io.BytesIO()
    image.save(file, format=format, **settings)
    return file.getvalue()


def scene():
    """Red in the upper left corner, green in the upper right, else blue; 12 x 8."""
    image = Image.new("RGB", (12, 8), "blue")
    image.paste("red", (0, 0, 4, 4))
    image.paste("lime", (8, 0, 12, 4))
    return image


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_plain_picture_is_decoded_as_the_shards_images_are(format):
    data = encoded(scene(), format)
    expected = decode_image(data, shorter_side=16, crop=16)
    assert np.array_equal(decode_picture(data, side=16).numpy(), expected)
    assert decode_picture(data, side=16).dtype == torch.uint8


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_photograph_is_shown_upright(orientation):
    turned = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(scene().transpose(turned), exif=exif)
    assert torch.equal(decode_picture(data, side=8), decode_picture(encoded(scene()), side=8))


def test_transparent_parts_are_white():
    image = scene().convert("RGBA")
    image.paste((9, 9, 9, 0), (0, 0, 12, 4))
    white = scene()
    white.paste("white", (0, 0, 12, 4))
    assert torch.equal(
        decode_picture(encoded(image), side=8), decode_picture(encoded(white), side=8)
    )
    palette = image.convert("P")
    palette.info["transparency"] = palette.getpixel((0, 0))
    decode_picture(encoded(palette), side=8)


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"<svg/>", encoded(scene())[:60]])
def test_what_is_no_picture_is_a_value_error(data):
    with pytest.raises(ValueError, match="image"):
        decode_picture(data, side=8)


def test_a_damaged_turned_photograph_is_a_value_error():
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = Image.effect_noise((64, 64), 99)
    data = encoded(noise, exif=exif)
    with pytest.raises(ValueError, match="no readable"):
        decode_picture(data[: len(data) // 2], side=8)


def test_a_header_that_announces_too_much_is_refused_before_decoding():
    data = encoded(Image.new("1", (17_000, 10)))
    with pytest.raises(ValueError, match="at most"):
        decode_picture(data, side=8)
    header = bytearray(encoded(Image.new("L", (8, 8))))
    header[16:24] = (60_000).to_bytes(4, "big") * 2
    with pytest.raises(ValueError, match="no readable"):
        decode_picture(bytes(header), side=8)
