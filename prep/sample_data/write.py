"""Pictures and annotations as files.

Annotation files appear whole or not at all. Pictures are many and small, so they are written in
place: a marker file says whether the folder is complete.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from vchat.base.files import write_atomically

MIMICIT_SIZE = (224, 224)
"""The size of every picture in MIMIC-IT."""


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, in UTF-8, with its keys in the order given."""
    with write_atomically(path) as file:
        file.write(json.dumps(value, ensure_ascii=False).encode())


def write_jpeg(path: Path, image: Image.Image) -> None:
    """Write a picture as JPEG with full colour resolution."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_jpeg(image))


def encode_jpeg(image: Image.Image) -> bytes:
    """Return a picture as JPEG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def write_mimicit_images(path: Path, images: Mapping[str, Image.Image]) -> None:
    """Write `X.json` of MIMIC-IT: image id -> base64 of a PNG of 224 x 224 pixels."""
    with write_atomically(path) as file:
        for number, (image_id, image) in enumerate(images.items()):
            file.write(b"," if number else b"{")
            file.write(json.dumps(image_id).encode() + b': "' + _stretched_png(image) + b'"')
        file.write(b"}" if images else b"{}")


def _stretched_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.resize(MIMICIT_SIZE, Image.Resampling.NEAREST).save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue())
