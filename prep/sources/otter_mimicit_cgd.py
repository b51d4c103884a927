"""MIMIC-IT CGD: differences between two COCO photographs.

Input: `MIMIC-IT/CGD/CGD_instructions.json`, images in `coco/train2017/`: the originals. Where that
folder is missing, the pictures of `MIMIC-IT/CGD/CGD.json` or its Parquet files are taken, which are
the same photographs stretched to 224 x 224, and records are marked `resampled_224`. Output:
one record per group of related instructions, both images shown in its first round. An image id is
`CGD_IMG_` and a COCO number, mostly of 12 digits, sometimes of 16.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from vchat.prep.data_path import DataPath
from vchat.prep.picture_index import PictureIndex
from vchat.prep.rejected import Rejected
from vchat.prep.sources import coco
from vchat.prep.sources.mimicit import (
    LICENCE,
    RESAMPLED,
    Instruction,
    grouped,
    instructions,
    instructions_need,
    record_of,
)
from vchat.prep.sources.mimicit_frames import picture_files
from vchat.prep.sources.source import Converted, KnownCount, Need, Row, Source, found_places
from vchat.shards.dialogue import ImageRef

PREFIX = "CGD_IMG_"
NORMAL_LENGTH = len(PREFIX) + 12


def rows(data: DataPath) -> Iterator[Row]:
    """Yield every group of related instructions, in the order of their first."""
    index = None
    if not found_places(coco.TRAIN_2017, data):
        index = PictureIndex(data, picture_files(data, "CGD"), names=_names)
    for group in grouped(list(instructions(data, "CGD"))):
        convert = partial(to_record, group, index=index)
        yield Row(id=group[0].id, num_pairs=len(group), convert=convert)


def _names(image_id: str) -> tuple[str, ...]:
    """Return the canonical key of a picture, under which ids of any padding meet."""
    try:
        return (coco.key(number_of(image_id)),)
    except Rejected:
        return ()


def to_record(group: Sequence[Instruction], *, index: PictureIndex | None = None) -> Converted:
    """Turn one group into one record; a pair with an empty text is left out.

    Args:
        index: of MIMIC-IT's own pictures, where they stand in for the photographs.

    Raises:
        Rejected: `bad_row`, `bad_id`, `bad_text`, `placeholder_mismatch` unless there are two
            different images, `missing_image` if one is not in `index`, `empty_text` if no pair is
            left.
    """
    image_ids = group[0].image_ids
    images = two_images(image_ids)
    repairs = Counter(long_id=sum(len(str(one)) > NORMAL_LENGTH for one in image_ids or ()))
    if index is not None:
        images = tuple(_stretched(image, index) for image in images)
    marks = () if index is None else (RESAMPLED,)
    return record_of(
        group,
        images,
        source="otter_mimicit_cgd",
        file=group[0].file,
        repairs=repairs,
        marks=marks,
    )


def _stretched(image: ImageRef, index: PictureIndex) -> ImageRef:
    """Return MIMIC-IT's own picture of a photograph."""
    found = index.find(image.key, key=image.key)
    if found is None:
        raise Rejected("missing_image", f"{image.key} is not among the pictures of CGD")
    return found


def two_images(image_ids: Sequence[Any] | None) -> tuple[ImageRef, ...]:
    """Return the places of the two photographs that a pair speaks about."""
    if image_ids is None:
        raise Rejected("bad_row", "`image_ids` is not a list")
    images = tuple(coco.train_2017(number_of(image_id)) for image_id in image_ids)
    if len({image.key for image in images}) != 2 or len(images) != 2:
        raise Rejected("placeholder_mismatch", f"wants two different images, has {list(image_ids)}")
    return images


def number_of(image_id: Any) -> int:
    """Return the COCO number in an image id of any padding.

    Raises:
        Rejected: `bad_id` if it is not `CGD_IMG_` and a number.
    """
    if not isinstance(image_id, str) or not image_id.startswith(PREFIX):
        raise Rejected("bad_id", f"image id {image_id!r} does not start with {PREFIX}")
    return coco.number_in(image_id.removeprefix(PREFIX), what="image id")


SOURCE = Source(
    name="otter_mimicit_cgd",
    about="differences between two COCO photographs (142 k instructions)",
    needs=(
        instructions_need("CGD"),
        Need(
            paths=(*coco.TRAIN_2017.paths, "MIMIC-IT/CGD/CGD.json", "MIMIC-IT/CGD/**/*.parquet"),
            how=f"{coco.TRAIN_2017.how} (or, smaller pictures, put CGD.json or the Parquet files of"
            " CGD_Images in MIMIC-IT/CGD/)",
            is_images=True,
        ),
    ),
    licence=f"{LICENCE}; {coco.LICENCE}",
    rows=rows,
    known=KnownCount(number=141_869, of="pairs"),
)
