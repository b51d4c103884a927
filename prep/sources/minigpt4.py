"""MiniGPT-4's second stage: long descriptions of pictures from Conceptual Captions and SBU.

Input: `cc_sbu_align/filter_cap.json` and `cc_sbu_align/image/<image_id>.jpg`. Output: one record of
one round per entry. Upstream has no instructions; ours all ask for a long answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from vchat.prep.raw.data_path import DataPath
from vchat.prep.raw.json_stream import items
from vchat.prep.sources.prompts import DETAILED, prompt_for
from vchat.prep.sources.source import Converted, Entry, KnownCount, Need, Source
from vchat.prep.sources.texts import file_id, id_of, require_object, require_text
from vchat.shards.format.record import ImageRef, Record, Round

FILE = "cc_sbu_align/filter_cap.json"
FOLDER = "cc_sbu_align/image"


def image_key(image_id: str) -> str:
    """Return the canonical key of a picture; SparklesDialogueCC shows the same ones."""
    return f"cc_sbu:{image_id}"


def read_entries(data: DataPath) -> Iterator[Entry]:
    """Yield every description, in file order."""
    for number, entry in enumerate(items(data / FILE, "annotations.item")):
        entry_id = id_of(entry, "image_id", otherwise=number)
        yield Entry(id=entry_id, num_pairs=1, convert=partial(to_record, entry))


def to_record(entry: Any) -> Converted:
    """Turn one description into a record.

    Raises:
        Rejected: `bad_row`, `bad_id`, `bad_text`, `empty_text`.
    """
    entry = require_object(entry)
    image_id = file_id(entry.get("image_id"), what="image_id")
    key = f"minigpt4/{image_id}"
    image = ImageRef(key=image_key(image_id), file=f"{FOLDER}/{image_id}.jpg")
    answer = require_text(entry.get("caption"), what="caption")
    record = Record(
        key=key,
        source="minigpt4",
        rounds=(Round(images=(image,), question=prompt_for(key, DETAILED), answer=answer),),
        licence=SOURCE.licence,
        file=FILE,
        record_id=image_id,
    )
    return Converted(record=record)


SOURCE = Source(
    name="minigpt4",
    about="long descriptions of pictures from Conceptual Captions and SBU (3.4 k)",
    needs=(
        Need(
            paths=(FILE,),
            how="download cc_sbu_align.zip from"
            " https://huggingface.co/datasets/Vision-CAIR/cc_sbu_align and unpack it in the data"
            " folder",
        ),
        Need(paths=(f"{FOLDER}/",), how="it is in cc_sbu_align.zip, see filter_cap.json"),
    ),
    licence="BSD-3 (code); images from CC and SBU by their URLs, text generated",
    read_entries=read_entries,
    known_count=KnownCount(number=3_439, of="rows", is_exact=False),
)
