"""LLaVA's larger files, each a data set of its own: 150k, 80k, LLaVA-1.5's mix of 665k, LLaVA-NeXT.

Input: one JSON file in `llava/`, or the Parquet files in `llava_next/`. Images: a bare COCO name is
in `coco/train2017/`, another path is below the data folder (`coco/`, `gqa/`, `ocr_vqa/`,
`textvqa/`, `vg/`), a Parquet entry holds its picture. Output: one record per entry; an entry may
have no image. Ids repeat in these files: a repeated id with new content gets `~2`.

These files repeat what `llava` and `llava_dial` read: a recipe uses either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from vchat.prep.raw.data_path import DataPath, find_files, path_below
from vchat.prep.raw.rejected import Rejected
from vchat.prep.sources import coco, image_names
from vchat.prep.sources.conversations.llava import LICENCE, file_need
from vchat.prep.sources.conversations.turns import num_answers, read_conversation
from vchat.prep.sources.entry_files import Cell, read_raw_entries, unique_keys
from vchat.prep.sources.source import Converted, Entry, KnownCount, Need, Source
from vchat.prep.sources.texts import id_of, require_object
from vchat.shards.format.record import ImageRef, Record

FOLDERS = (
    "coco/train2017/",
    "gqa/images/",
    "ocr_vqa/images/",
    "textvqa/train_images/",
    "vg/VG_100K/",
    "vg/VG_100K_2/",
)
"""The image folders of LLaVA-1.5's mix, as its README names them."""


def read_entries(data: DataPath, *, name: str, pattern: str) -> Iterator[Entry]:
    """Yield the entries of the files that match, in order of their names."""
    unique = unique_keys()
    for file in find_files(data, pattern):
        below = path_below(file, data)
        for number, entry in read_raw_entries(file):
            entry_id = id_of(entry, "id", otherwise=number)
            convert = partial(to_record, entry, entry_id, name=name, file=below, unique=unique)
            yield Entry(id=entry_id, num_pairs=num_answers(entry), convert=convert)


def to_record(
    entry: Any, entry_id: str, *, name: str, file: str, unique: Callable[[str, str], str]
) -> Converted:
    """Turn one entry into a record.

    Raises:
        Rejected: `bad_row`, `duplicate` for the content of an earlier entry, and those
            of `read_conversation`.
    """
    entry = require_object(entry)
    image = entry.get("image")
    images = [] if image in (None, "") else [_image(image, entry_id, file=file)]
    conversation = read_conversation(entry, images)
    record = Record(
        key=unique(f"{name}/{entry_id}", repr(conversation)),
        source=name,
        rounds=conversation.rounds,
        system=conversation.system,
        licence=LICENCE,
        file=file,
        record_id=entry_id,
    )
    return Converted(record=record)


def _image(image: Any, entry_id: str, *, file: str) -> ImageRef:
    """Return a reference to the image of an entry.

    Raises:
        Rejected: `bad_row` if it is neither a path nor a picture.
    """
    if isinstance(image, Cell):
        key = image_names.key_of_path(image.path or entry_id)
        return ImageRef(key=key, file=file, member=image.member)
    if not isinstance(image, str):
        raise Rejected("bad_row", f"`image` is {type(image).__name__}, not a path")
    if "/" not in image:
        return coco.train_2017(coco.number_of_file(image))
    return ImageRef(key=image_names.key_of_path(image), file=image)


def _source(
    name: str, *, file: str, about: str, number: int, images: tuple[str, ...] = ()
) -> Source:
    need = coco.TRAIN_2017
    if images:
        how = "lay the images out as the README of LLaVA says, in the data folder"
        need = Need(paths=images, how=how)
    return Source(
        name=name,
        about=about,
        needs=(file_need(file), need),
        licence=LICENCE,
        read_entries=partial(read_entries, name=name, pattern=f"llava/{file}"),
        known_count=KnownCount(number=number, of="rows"),
    )


SOURCES = (
    _source(
        "llava_instruct_150k",
        file="llava_instruct_150k.json",
        about="LLaVA's three files mixed (158 k; repeats llava and llava_dial)",
        number=157_712,
    ),
    _source(
        "llava_instruct_80k",
        file="llava_instruct_80k.json",
        about="one dialogue for each of 80 k COCO photographs (repeats llava and llava_dial)",
        number=80_000,
    ),
    _source(
        "llava_v1_5_mix665k",
        file="llava_v1_5_mix665k.json",
        about="LLaVA-1.5's mix: COCO, GQA, OCR-VQA, TextVQA, Visual Genome, text alone (665 k)",
        number=665_298,
        images=FOLDERS,
    ),
    Source(
        name="llava_next",
        about="LLaVA-NeXT's mix with its pictures, in Parquet (779 k)",
        needs=(
            Need(
                paths=("llava_next/**/*.parquet",),
                how="download the Parquet files of"
                " https://huggingface.co/datasets/lmms-lab/LLaVA-NeXT-Data (92 GB) and put them in"
                " llava_next/ of the data folder",
            ),
        ),
        licence=LICENCE,
        read_entries=partial(read_entries, name="llava_next", pattern="llava_next/**/*.parquet"),
        known_count=KnownCount(number=779_289, of="rows"),
    ),
)
