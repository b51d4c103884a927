import io

import numpy as np
import pytest
import torch
from PIL import Image

from vchat.prep.convert.images import ImagePolicy, encode_for_shard
from vchat.prep.raw.rejected import Rejected
from vchat.shards.pixels.decode import decode_image, decode_tiles_into
from vchat.shards.pixels.grid import Tiling
from vchat.train.chat.pictures import count_inputs, decode_picture, decode_picture_tiles


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
    with pytest.raises(ValueError, match="picture"):
        decode_picture(data, side=8)


def test_a_damaged_turned_photograph_is_a_value_error():
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = Image.effect_noise((64, 64), 99)
    data = encoded(noise, exif=exif)
    with pytest.raises(ValueError, match="picture"):
        decode_picture(data[: len(data) // 2], side=8)


def test_a_header_that_announces_too_much_is_refused_before_decoding():
    data = encoded(Image.new("1", (17_000, 10)))
    with pytest.raises(ValueError, match="at most"):
        decode_picture(data, side=8)
    strip = encoded(Image.new("1", (20_000, 200)))
    with pytest.raises(ValueError, match="20000x200 pixels, at most"):
        decode_picture(strip, side=8, stored_side=224)
    header = bytearray(encoded(Image.new("L", (8, 8))))
    header[16:24] = (60_000).to_bytes(4, "big") * 2
    with pytest.raises(ValueError, match="picture"):
        decode_picture(bytes(header), side=8)


def noise(mode="RGB", size=(60, 44)):
    """Return a picture that every resizing changes."""
    channels = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,), "CMYK": (4,)}[mode]
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (*size[::-1], *channels), dtype=np.uint8), mode)


def odd_pictures():
    """Return pictures of every format and mode that a build takes, by a name."""
    ramp = np.tile(np.linspace(0, 65535, 60).astype(np.uint16), (44, 1))
    floats = Image.fromarray(np.linspace(0, 255, 60 * 44, dtype=np.float32).reshape(44, 60))
    exif = Image.Exif()
    exif[0x0112] = 6
    odd = {
        "16-bit PNG": encoded(Image.fromarray(ramp)),
        "16-bit TIFF": encoded(Image.fromarray(ramp), "TIFF"),
        "32-bit TIFF": encoded(Image.fromarray(ramp.astype(np.int32)), "TIFF"),
        "float TIFF": encoded(floats, "TIFF"),
        "bilevel PNG": encoded(noise("L").convert("1")),
        "palette PNG": encoded(noise().quantize(8)),
        "transparent palette PNG": encoded(noise().quantize(8), transparency=0),
        "PNG with one transparent colour": encoded(scene(), transparency=(255, 0, 0)),
        "turned JPEG": encoded(noise(), "JPEG", exif=exif),
        "turned PNG": encoded(noise(), exif=exif),
        "progressive JPEG": encoded(noise(), "JPEG", progressive=True),
    }
    odd |= {f"{mode} PNG": encoded(noise(mode)) for mode in ("L", "LA", "RGB", "RGBA")}
    odd |= {f"{mode} JPEG": encoded(noise(mode), "JPEG") for mode in ("L", "RGB", "CMYK")}
    odd |= {f"{mode} TIFF": encoded(noise(mode), "TIFF") for mode in ("L", "RGB", "RGBA", "CMYK")}
    odd |= {f"{mode} WebP": encoded(noise(mode), "WEBP") for mode in ("RGB", "RGBA")}
    return odd | {kind: encoded(noise(), kind) for kind in ("GIF", "BMP")}


ODD = odd_pictures()


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("stored_side", [24, 300])
def test_a_picture_has_the_pixels_it_would_have_in_a_shard(kind, stored_side):
    policy = ImagePolicy(size=stored_side, format="png")
    stored = encode_for_shard(ODD[kind], policy, key=kind, name=kind)
    expected = decode_image(stored.data, shorter_side=16, crop=16)
    shown = decode_picture(ODD[kind], side=16, stored_side=stored_side)
    assert np.array_equal(shown.numpy(), expected)


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("stored_side", [24, 300])
def test_a_picture_has_the_tiles_it_would_have_in_a_shard(kind, stored_side):
    tiling = Tiling(max_tiles=6, side=16)
    policy = ImagePolicy(size=stored_side, format="png")
    stored = encode_for_shard(ODD[kind], policy, key=kind, name=kind)
    shown = decode_picture_tiles(ODD[kind], tiling=tiling, stored_side=stored_side)
    expected = np.zeros((len(shown), 16, 16, 3), np.uint8)
    decode_tiles_into(expected, stored.data, size=stored.size, tiling=tiling)
    assert np.array_equal(shown.numpy(), expected.transpose(0, 3, 1, 2))
    assert count_inputs(ODD[kind], tiling=tiling, stored_side=stored_side) == len(shown)


@pytest.mark.parametrize("size", [(20_000, 200), (500, 20_000), (30_001, 3)])
def test_a_chat_refuses_what_a_build_rejects(size):
    data = encoded(Image.new("1", size))
    with pytest.raises(Rejected, match="huge_image"):
        encode_for_shard(data, ImagePolicy(size=448), key="strip", name="strip")
    with pytest.raises(ValueError, match="pixels"):
        decode_picture(data, side=8, stored_side=448)
    with pytest.raises(ValueError, match="pixels"):
        count_inputs(data, tiling=Tiling(max_tiles=2, side=8), stored_side=448)
