"""MIMIC-IT CGD: differences between two COCO photographs.

Input: `MIMIC-IT/CGD/CGD_instructions.json`, images in `coco/train2017/` (the originals; `CGD.json`
holds them stretched to 224 x 224). Output: one record per group of related instructions, both
images shown in its first round. An image id is `CGD_IMG_` and a COCO number, mostly of 12 digits,
sometimes of 16.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vchat.prep.rejected import Rejected
from vchat.prep.sources import coco
from vchat.prep.sources.mimicit import (
    LICENCE,
    Instruction,
    grouped,
    instructions,
    instructions_need,
    record_of,
)
from vchat.prep.sources.source import Converted, KnownCount, Row, Source
from vchat.shards.dialogue import ImageRef

PREFIX = "CGD_IMG_"
NORMAL_LENGTH = len(PREFIX) + 12


def rows(data: Path) -> Iterator[Row]:
    """Yield every group of related instructions, in the order of their first."""
    for group in grouped(list(instructions(data, "CGD"))):
        yield Row(id=group[0].id, num_pairs=len(group), convert=partial(to_record, group))


def to_record(group: Sequence[Instruction]) -> Converted:
    """Turn one group into one record; a pair with an empty text is left out.

    Raises:
        Rejected: `bad_row`, `bad_id`, `bad_text`, `placeholder_mismatch` unless there are two
            different images, `empty_text` if no pair is left.
    """
    image_ids = group[0].image_ids
    images = two_images(image_ids)
    repairs = Counter(long_id=sum(len(str(one)) > NORMAL_LENGTH for one in image_ids or ()))
    return record_of(group, images, source="otter_mimicit_cgd", file=group[0].file, repairs=repairs)


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
        coco.TRAIN_2017,
    ),
    licence=f"{LICENCE}; {coco.LICENCE}",
    rows=rows,
    known=KnownCount(number=141_869, of="pairs"),
)
