"""Pixels equal those of the CLIP image processor; a bad image is an error, never a surprise."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from vchat.shards.pixels.decode import decode_image, decode_into
from vchat.shards.pixels.resize import size_before_crop


def photograph(width: int, height: int) -> Image.Image:
    """Smooth colours with noise: every pixel differs from its neighbours."""
    rng = np.random.default_rng(width * 1000 + height)
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=-1)
    noisy = np.clip(smooth + rng.integers(-40, 40, smooth.shape), 0, 255)
    return Image.fromarray(noisy.astype(np.uint8))


def encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def processed(data: bytes, *, shorter_side: int, crop: int) -> np.ndarray:
    """What transformers makes of the bytes, before rescaling and normalising."""
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": shorter_side},
        crop_size={"height": crop, "width": crop},
        do_rescale=False,
        do_normalize=False,
    )
    return np.asarray(processor(Image.open(io.BytesIO(data)))["pixel_values"][0])


SIZES = [(96, 64), (64, 97), (640, 480), (427, 640), (50, 31), (64, 64), (65, 64), (64, 301)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_pixels_equal_the_processor(size: tuple[int, int], kind: str) -> None:
    data = encoded(photograph(*size), kind)
    for shorter_side, crop in ((64, 64), (64, 57), (33, 32)):
        pixels = decode_image(data, shorter_side=shorter_side, crop=crop)
        wanted = processed(data, shorter_side=shorter_side, crop=crop)
        assert pixels.dtype == np.uint8
        assert pixels.shape == (3, crop, crop)
        difference = np.abs(pixels.astype(int) - wanted).max()
        assert difference <= (0 if min(size) == shorter_side else 1)


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"quality": 20}])
def test_every_kind_of_jpeg_is_decoded_as_by_the_processor(options: dict[str, int]) -> None:
    file = io.BytesIO()
    photograph(90, 64).save(file, "JPEG", **options)
    wanted = processed(file.getvalue(), shorter_side=64, crop=64)
    np.testing.assert_array_equal(decode_image(file.getvalue(), shorter_side=64, crop=64), wanted)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK"])
def test_other_color_modes_become_rgb_as_in_the_processor(mode: str) -> None:
    data = encoded(photograph(80, 64).convert(mode), "PNG" if mode == "P" else "JPEG")
    np.testing.assert_array_equal(
        decode_image(data, shorter_side=64, crop=64), processed(data, shorter_side=64, crop=64)
    )


@pytest.mark.parametrize("size", [(64, 64), (80, 64), (64, 90), (200, 130)])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_pixels_land_in_the_memory_that_was_given(size: tuple[int, int], format: str) -> None:
    data = encoded(photograph(*size), format)
    batch = np.zeros((3, 64, 64, 3), np.uint8)
    decode_into(batch[1], data, shorter_side=64)
    np.testing.assert_array_equal(
        batch[1].transpose(2, 0, 1), decode_image(data, shorter_side=64, crop=64)
    )
    assert not batch[0].any()
    assert not batch[2].any()


def test_the_longer_side_is_rounded_down() -> None:
    assert size_before_crop((640, 480), shorter_side=224) == (298, 224)
    assert size_before_crop((480, 640), shorter_side=224) == (224, 298)


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + b"\x35\xaf\x06\x1e"


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "undecodable image of 0 bytes"),
        (b"not an image at all", "undecodable image of 19 bytes"),
        (encoded(photograph(64, 64), "GIF"), "undecodable image"),
        (encoded(photograph(64, 64), "JPEG")[:700], "undecodable image of 700 bytes"),
        (encoded(photograph(64, 64), "PNG")[:700], "undecodable image of 700 bytes"),
        (png_header(20_000, 10), "20000x10 pixels, at most 16384"),
        (png_header(16_000, 16_000), "pixels"),
    ],
)
def test_a_bad_image_is_an_error_before_its_pixels_are_decoded(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_image(data, shorter_side=64, crop=64)


def test_a_crop_larger_than_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="crop 65 is larger than the shorter side 64"):
        decode_image(encoded(photograph(64, 64), "PNG"), shorter_side=64, crop=65)
