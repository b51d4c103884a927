"""Writes small raw data sets with every defect that the real ones have, for tests of `prep`."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLORS = ("red", "lime", "blue", "yellow", "white", "black")

COCO_KINDS = {
    1: "good",
    2: "gif",
    3: "tiny",
    4: "truncated",
    5: "png16",
    6: "exif",
    7: "huge",
    8: "text",
    9: "palette",
}
"""Number of a photograph -> the kind of file that lies under its name; 99 is missing."""


def draw_picture(number: int, *, size: tuple[int, int] = (48, 36)) -> Image.Image:
    """Return a picture of one color, which tells `number`, with a dark corner at the top left."""
    image = Image.new("RGB", size, COLORS[number % len(COLORS)])
    image.paste((60, 60, 60), (0, 0, size[0] // 4, size[1] // 4))
    return image


def encode_picture(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    """Return a picture as the bytes of a file."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def exif_rotated(number: int) -> bytes:
    """Return a JPEG that is stored on its side; upright it is 36 wide and 48 high."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode_picture(draw_picture(number), exif=exif)


def sixteen_bit_png() -> bytes:
    """Return a grey PNG with 16 bits per pixel, from black at the left to white at the right."""
    ramp = np.linspace(0, 65535, 48).astype(np.uint16)
    return encode_picture(Image.fromarray(np.tile(ramp, (36, 1))), "PNG")


def palette_png(number: int) -> bytes:
    """Return a PNG with a palette, one of whose colors is transparent."""
    image = draw_picture(number).quantize(4)
    return encode_picture(image, "PNG", transparency=image.getpixel((0, 0)))


def png_of_declared_size(width: int, height: int) -> bytes:
    """Return the beginning of a PNG whose header declares the given size."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    end = b"\0\0\0\0IEND\xaeB`\x82"
    sized = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + sized + end


IMAGES: Mapping[str, Callable[[int], bytes]] = {
    "good": lambda number: encode_picture(draw_picture(number)),
    "large": lambda number: encode_picture(draw_picture(number, size=(640, 480))),
    "tiny": lambda number: encode_picture(Image.new("RGB", (1, 1), "white")),
    "gif": lambda number: encode_picture(draw_picture(number), "GIF"),
    "truncated": lambda number: encode_picture(draw_picture(number, size=(640, 480)))[:2000],
    "png16": lambda number: sixteen_bit_png(),
    "palette": palette_png,
    "exif": exif_rotated,
    "huge": lambda number: png_of_declared_size(60_000, 60_000),
    "text": lambda number: b"<html>404 not found</html>",
}
"""Kind -> bytes of a picture of that kind; the argument chooses its color."""


def write_image(path: Path, kind: str = "good", *, number: int = 0) -> None:
    """Write a picture of one of the kinds in `IMAGES`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(IMAGES[kind](number))


def write_coco(data: Path, numbers: Mapping[int, str]) -> None:
    """Write `coco/train2017/` with one picture per number, of the given kind."""
    for number, kind in numbers.items():
        write_image(data / f"coco/train2017/{number:012d}.jpg", kind, number=number)


def turns(*texts: str) -> list[dict[str, str]]:
    """Return LLaVA turns, human first."""
    return [
        {"from": ("human", "gpt")[position % 2], "value": text}
        for position, text in enumerate(texts)
    ]


def llava_row(number: int, *texts: str) -> dict[str, Any]:
    """Return a LLaVA row about one COCO photograph."""
    name = f"{number:012d}"
    return {"id": name, "image": f"{name}.jpg", "conversations": turns(*texts)}


def good_llava_row(number: int) -> dict[str, Any]:
    """Return a LLaVA row without defects; its answer names the picture's color."""
    color = COLORS[number % len(COLORS)]
    return llava_row(number, "<image>\nWhat color is it?", f"The picture is {color}.")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_llava(data: Path, *, count: int = 12, images: bool = True) -> None:
    """Write a small LLaVA: one row per photograph and file, the two files sharing photographs."""
    rows = [good_llava_row(number) for number in range(1, count + 1)]
    write_json(data / "llava/detail_23k.json", rows)
    write_json(data / "llava/complex_reasoning_77k.json", rows[: count // 2])
    if images:
        write_coco(data, dict.fromkeys(range(1, count + 1), "good"))


def draw_noise(mode: str = "RGB") -> Image.Image:
    """Return a picture that every step of a JPEG coder changes."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    return coarse.resize((320, 240)).convert(mode)


PLAIN_JPEGS = {
    "baseline": encode_picture(draw_noise(), quality=90),
    "progressive": encode_picture(draw_noise(), quality=80, progressive=True),
    "unsubsampled": encode_picture(draw_noise(), quality=95, subsampling=0),
    "grey": encode_picture(draw_noise("L")),
    "cmyk": encode_picture(draw_noise("CMYK")),
    "with bytes after its end": encode_picture(draw_noise()) + b"more",
    "with bytes before a marker": encode_picture(draw_noise())[:-2] + b"\x00\x17\xff\xd9",
}
"""JPEGs of 320 x 240 pixels, by what is special about them."""
