"""MIMIC-IT sets with their own pictures, as base64 in JSON or in Parquet: SD, SN, TVC, VST.

They differ in how many images a record has, in how the ids of the two files match, and in the
order of rounds; the module of each set says how. Upstream stretched the pictures to 224 x 224.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from vchat.prep.raw.data_path import DataPath, find_files
from vchat.prep.raw.parquet_cells import PICTURE_COLUMNS, picture_column
from vchat.prep.raw.picture_index import PictureIndex
from vchat.prep.raw.rejected import Rejected
from vchat.prep.sources.mimicit.embedded import EmbeddedPicture
from vchat.prep.sources.mimicit.instructions import (
    HOME,
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
from vchat.prep.sources.source import Converted, Entry, KnownCount, Need, Source
from vchat.shards.format.record import ImageRef


class PictureLookup(Protocol):
    """Finds the pictures of a set: an index of its files, or the one picture of an entry."""

    def find(self, name: str, *, key: str, unique: bool = False) -> ImageRef | None:
        """Return a reference to the picture of that name, as `PictureIndex.find` does."""


Found = tuple[ImageRef | None, str]
"""An image or None, and the rule that matched its id; empty if the id matched as written."""


def as_written(image_id: str) -> tuple[str, ...]:
    """Return the only name of an image whose ids are equal in both files."""
    return (image_id,)


def find_as_written(index: PictureLookup, image_id: str) -> Found:
    """Find an image by its id as written."""
    return index.find(image_id, key=f"mimicit:{image_id}"), ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSet:
    """What distinguishes one set."""

    name: str
    """`SD`, the prefix of its files."""

    num_images: int | None = None
    """The number of different images that a record must have; None for any number from 1."""

    names: Callable[[str], Iterable[str]] = as_written
    """Returns the names by which the index knows an image of the image file."""

    find: Callable[[PictureLookup, str], Found] = find_as_written
    """Finds the image of an id in the instruction file."""

    group: Callable[[list[Instruction]], list[list[Instruction]]] = group_related
    """Groups instructions that are one conversation, in order."""

    @property
    def source(self) -> str:
        """Name of the data set."""
        return f"otter_mimicit_{self.name.lower()}"

    @property
    def image_file(self) -> str:
        """The image file of the JSON packaging, below the data folder."""
        return f"MIMIC-IT/{self.name}/{self.name}.json"


def frame_source(
    frames: FrameSet, *, about: str, known_count: KnownCount, may_leave_out_images: bool = False
) -> Source:
    """Return the source that reads one set."""
    how = f"download it from {HOME} (access on request) and put it in MIMIC-IT/{frames.name}/"
    parquet = f"MIMIC-IT/{frames.name}/**/*.parquet"
    return Source(
        name=frames.source,
        about=about,
        needs=(
            instructions_need(frames.name),
            Need(paths=(frames.image_file, parquet), how=how, is_images=True),
        ),
        licence=LICENCE,
        read_entries=partial(_read_entries, frames),
        read_entries_indexed=partial(_read_entries, frames),
        may_leave_out_images=may_leave_out_images,
        known_count=known_count,
    )


def _read_entries(
    frames: FrameSet, data: DataPath, index_folder: Path | None = None
) -> Iterator[Entry]:
    """Yield every group of related instructions, after one scan of the image file.

    The scan is stored in `index_folder`, if there is one.
    """
    entries = list(read_instructions(data, frames.name))
    files = [] if embed_pictures(entries) else find_picture_files(data, frames.name)
    index = PictureIndex(data, files, names=frames.names, index_folder=index_folder)
    for group in frames.group(entries):
        convert = partial(to_record, group, frames=frames, index=index)
        yield Entry(id=group[0].id, num_pairs=len(group), convert=convert)


def find_picture_files(data: DataPath, name: str) -> list[DataPath]:
    """Return the files with the pictures of a set: `SD.json`, and Parquet with such a column.

    Raises:
        ValueError: If there is no such file.
    """
    folder = data / "MIMIC-IT" / name
    json_file = folder / f"{name}.json"
    files = [json_file] if json_file.is_file() else []
    parquet = find_files(folder, "**/*.parquet")
    files += [path for path in parquet if picture_column(path)]
    if not files:
        raise ValueError(
            f"{name}: no {json_file}, and no Parquet beside it has a column"
            f" {' or '.join(PICTURE_COLUMNS)}"
        )
    return files


def to_record(group: Sequence[Instruction], *, frames: FrameSet, index: PictureIndex) -> Converted:
    """Turn one group into one record.

    Raises:
        Rejected: `bad_row`, `bad_id`, `missing_image` (never a record without one of its images),
            `placeholder_mismatch` for another number of images, and those of `make_record`.
    """
    image_ids = image_ids_of(group)
    wanted = frames.num_images
    if not image_ids or (
        wanted is not None and (len(image_ids), len(set(map(str, image_ids)))) != (wanted, wanted)
    ):
        raise Rejected(
            "placeholder_mismatch",
            f"wants {wanted or 'some'} different images, has {list(map(str, image_ids))}",
        )
    repairs: Counter[str] = Counter()
    images = tuple(_image(image_id, frames, index, repairs) for image_id in image_ids)
    return make_record(
        group,
        images,
        source=frames.source,
        file=group[0].file,
        repairs=repairs,
        marks=(RESAMPLED,),
    )


def _image(
    image_id: Any, frames: FrameSet, index: PictureLookup, repairs: Counter[str]
) -> ImageRef:
    if isinstance(image_id, EmbeddedPicture):
        return _find_embedded(image_id, frames)
    if not isinstance(image_id, str) or not image_id.startswith(f"{frames.name}_IMG_"):
        raise Rejected("bad_id", f"image id {image_id!r} does not start with {frames.name}_IMG_")
    image, rule = frames.find(index, image_id)
    if image is None:
        raise Rejected("missing_image", f"{image_id} is not among the pictures")
    if rule:
        repairs[rule] += 1
    return image


def _find_embedded(picture: EmbeddedPicture, frames: FrameSet) -> ImageRef:
    """Return a reference to an embedded picture, with the key of the set if its id is known."""
    if not picture.is_named:
        return picture.find("", key=f"mimicit:{picture.id}")
    image, _ = frames.find(picture, picture.id)
    assert image is not None, picture.id
    return image
