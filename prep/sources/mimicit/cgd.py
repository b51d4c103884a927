"""MIMIC-IT CGD: differences between two COCO photographs.

Input: `MIMIC-IT/CGD/CGD_instructions.json`, images in `coco/train2017/`: the originals. Where that
folder is missing, the pictures of `MIMIC-IT/CGD/CGD.json` or its Parquet files replace them: the
same photographs stretched to 224 x 224. Their records are marked `resampled_224`, as are those
with an embedded picture that does not say which photograph it is. Output: one record per group of
related instructions; its first round shows both images. An image id is `CGD_IMG_` and a COCO
number, mostly of 12 digits, sometimes of 16.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vchat.prep.raw.data_path import DataPath
from vchat.prep.raw.picture_index import PictureIndex
from vchat.prep.raw.rejected import Rejected
from vchat.prep.sources import coco
from vchat.prep.sources.mimicit.embedded import EmbeddedPicture
from vchat.prep.sources.mimicit.frames import find_picture_files
from vchat.prep.sources.mimicit.instructions import (
    LICENCE,
    RESAMPLED,
    Instruction,
    embed_pictures,
    group_related,
    image_ids_of,
    instructions_need,
    make_record,
    read_instructions,
)
from vchat.prep.sources.source import Converted, Entry, KnownCount, Need, Source, existing_paths
from vchat.shards.format.record import ImageRef

PREFIX = "CGD_IMG_"
NORMAL_LENGTH = len(PREFIX) + 12


def read_entries(data: DataPath, index_folder: Path | None = None) -> Iterator[Entry]:
    """Yield every group of related instructions, in the order of their first.

    The scan of a JSON file of pictures is stored in `index_folder`, if there is one.
    """
    entries = list(read_instructions(data, "CGD"))
    index = None
    if not existing_paths(coco.TRAIN_2017, data):
        files = [] if embed_pictures(entries) else find_picture_files(data, "CGD")
        index = PictureIndex(data, files, names=_names, index_folder=index_folder)
    for group in group_related(entries):
        convert = partial(to_record, group, index=index)
        yield Entry(id=group[0].id, num_pairs=len(group), convert=convert)


def _names(image_id: str) -> tuple[str, ...]:
    """Return the canonical key of a picture, which is equal for ids of any padding."""
    try:
        return (coco.key(number_of(image_id)),)
    except Rejected:
        return ()


def to_record(group: Sequence[Instruction], *, index: PictureIndex | None = None) -> Converted:
    """Turn one group into one record; a pair with an empty text is left out.

    Args:
        group: Related instructions about one pair of images.
        index: MIMIC-IT's own pictures, if they replace the photographs; empty if all are embedded.

    Raises:
        Rejected: `bad_row`, `bad_id`, `bad_text`, `placeholder_mismatch` unless there are two
            different images, `missing_image` if one is not in `index`, `empty_text` if no pair is
            left.
    """
    image_ids = image_ids_of(group)
    written = [str(one) for one in image_ids if str(one).startswith(PREFIX)]
    repairs = Counter(long_id=sum(len(one) > NORMAL_LENGTH for one in written))
    if any(isinstance(one, EmbeddedPicture) for one in image_ids):
        images = _embedded_pair(image_ids, has_photographs=index is None)
    else:
        images = two_images(image_ids)
        if index is not None:
            images = tuple(_find_stretched(image, index) for image in images)
    marks = (RESAMPLED,) if any(one.file.startswith("MIMIC-IT/") for one in images) else ()
    return make_record(
        group,
        images,
        source="otter_mimicit_cgd",
        file=group[0].file,
        repairs=repairs,
        marks=marks,
    )


def _find_stretched(image: ImageRef, index: PictureIndex) -> ImageRef:
    """Return a reference to MIMIC-IT's own picture of a photograph."""
    found = index.find(image.key, key=image.key)
    if found is None:
        raise Rejected("missing_image", f"{image.key} is not among the pictures of CGD")
    return found


def two_images(image_ids: Sequence[Any] | None) -> tuple[ImageRef, ...]:
    """Return references to the two photographs of a pair."""
    if image_ids is None:
        raise Rejected("bad_row", "`image_ids` is not a list")
    images = tuple(coco.train_2017(number_of(image_id)) for image_id in image_ids)
    return _require_two(images)


def _require_two(images: tuple[ImageRef, ...]) -> tuple[ImageRef, ...]:
    keys = [image.key for image in images]
    if len(set(keys)) != 2 or len(keys) != 2:
        raise Rejected("placeholder_mismatch", f"wants two different images, has {keys}")
    return images


def _embedded_pair(
    pictures: Sequence[EmbeddedPicture], *, has_photographs: bool
) -> tuple[ImageRef, ...]:
    """Return references to the two embedded pictures, or to the original photographs."""
    return _require_two(
        tuple(_embedded_image(one, has_photographs=has_photographs) for one in pictures)
    )


def _embedded_image(picture: EmbeddedPicture, *, has_photographs: bool) -> ImageRef:
    if not picture.is_named:
        return picture.find("", key=f"mimicit:{picture.id}")
    number = number_of(picture.id)
    if has_photographs:
        return coco.train_2017(number)
    return picture.find(picture.id, key=coco.key(number))


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
            " CGD_Images, or of CGD, in MIMIC-IT/CGD/)",
            is_images=True,
        ),
    ),
    licence=f"{LICENCE}; {coco.LICENCE}",
    read_entries=read_entries,
    read_entries_indexed=read_entries,
    known_count=KnownCount(number=141_869, of="pairs"),
)
