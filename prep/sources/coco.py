"""COCO photographs: one number each, several file names.

The 2014 and 2017 releases are the same photographs cut differently, and five of our sources show
them under different names. The number is the photograph's identity.
"""

from __future__ import annotations

import re

from vchat.prep.raw.rejected import Rejected
from vchat.prep.sources.source import Need
from vchat.shards.format.record import ImageRef

TRAIN_2017 = Need(
    paths=("coco/train2017/",),
    how="download train2017.zip (18 GB, 118287 images) from http://images.cocodataset.org/zips/"
    " and unpack it in coco/ of the data folder",
)
LICENCE = "photographs from Flickr, each under its own licence (COCO terms of use)"

_FILE_NAME = re.compile(r"(?:COCO_(?:train|val)2014_)?(\d{1,16})\.(?:jpg|jpeg|png)", re.IGNORECASE)
_COCO_FOLDER = re.compile(r"(?:^|/)(?:coco/)?(?:train|val|test)20(?:14|15|17)/\d{12}\.jpg$")


def number_in(digits: str, *, what: str) -> int:
    """Return a COCO number given with any amount of zero padding (12 digits, or 16 in the wild).

    Raises:
        Rejected: `bad_id` if it is not a number, or has more than 12 digits without the padding.
    """
    if not (digits.isascii() and digits.isdigit()) or len(digits.lstrip("0")) > 12:
        raise Rejected("bad_id", f"{what} {digits!r} is not a COCO number")
    return int(digits)


def number_of_file(name: object) -> int:
    """Return the COCO number in an image file's name.

    Raises:
        Rejected: `bad_id` if it is not named as COCO names its images.
    """
    match = _FILE_NAME.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        raise Rejected("bad_id", f"image {name!r} is not named as COCO names its images")
    return number_in(match[1], what="image")


def key(number: int) -> str:
    """Return the canonical key of a photograph."""
    return f"coco:{number}"


def train_2017(number: int) -> ImageRef:
    """Return a reference to a photograph in the train2017 folder."""
    return ImageRef(key=key(number), file=f"coco/train2017/{number:012d}.jpg")


def number_in_path(path: str) -> int | None:
    """Return the COCO number of a path that is clearly one of COCO's, else None."""
    name = path.rsplit("/", 1)[-1]
    if _COCO_FOLDER.search(path) or name.upper().startswith("COCO_"):
        match = _FILE_NAME.fullmatch(name)
        return int(match[1]) if match else None
    return None
