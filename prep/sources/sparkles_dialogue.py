"""SparklesDialogue: dialogues whose rounds bring in images and speak about them by id.

Input: `sparkles/SparklesDialogueX/`, X is CC or VG: `annotations/SparklesDialogueX.json`,
`images/`. Output: one record per dialogue. The text names an image as `IMAGE#14`, followed by a tag
where it is shown; we rewrite every mention to `Image 1`, the number in its header. The prompts that
generated a dialogue (`raw`) and the descriptions of images are dropped: a model must not see them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from vchat.prep.raw.data_path import DataPath
from vchat.prep.raw.json_stream import items
from vchat.prep.raw.rejected import Rejected
from vchat.prep.sources import minigpt4
from vchat.prep.sources.source import Converted, Entry, KnownCount, Need, Source
from vchat.prep.sources.texts import file_id, pair_turns, require_object, require_text
from vchat.shards.format.record import ImageRef, Record, Round

PARTS = ("CC", "VG")
TAG = "<Img><ImageHere></Img>"
_MENTION = re.compile(rf"(image\s*)?#\s*(\w+)({re.escape(TAG)})?", re.IGNORECASE)
_LEFT_OVER = re.compile(r"image\s*#", re.IGNORECASE)


def file_of(part: str) -> str:
    """Return the annotation file of `CC` or `VG`, below the data folder."""
    return f"sparkles/SparklesDialogue{part}/annotations/SparklesDialogue{part}.json"


def read_entries(data: DataPath) -> Iterator[Entry]:
    """Yield every dialogue of both parts, in file order."""
    for part in PARTS:
        for number, entry in enumerate(items(data / file_of(part))):
            dialogue = entry.get("dialogue") if isinstance(entry, Mapping) else None
            convert = partial(to_record, entry, part=part, number=number)
            yield Entry(id=f"{part}/{number}", num_pairs=_num_answers(dialogue), convert=convert)


def to_record(entry: Any, *, part: str, number: int) -> Converted:
    """Turn one dialogue into a record.

    Raises:
        Rejected: `bad_row`, `bad_role_order`, `bad_id`, `placeholder_mismatch` if tags and images
            differ or a mention cannot be resolved, `bad_text`, `empty_text`.
    """
    dialogue = require_object(entry).get("dialogue")
    if not isinstance(dialogue, list) or not all(isinstance(one, Mapping) for one in dialogue):
        raise Rejected("bad_row", "`dialogue` is not a list of messages")
    turns = [(str(one.get("role")), one) for one in dialogue]
    record = Record(
        key=f"sparkles_dialogue/{part}/{number}",
        source="sparkles_dialogue",
        rounds=tuple(_rounds(pair_turns(turns, user="user", assistant="assistant"), part=part)),
        licence=SOURCE.licence,
        file=file_of(part),
        record_id=str(number),
    )
    return Converted(record=record)


def _num_answers(dialogue: Any) -> int:
    if not isinstance(dialogue, list):
        return 0
    return sum(isinstance(one, Mapping) and one.get("role") == "assistant" for one in dialogue)


def _rounds(pairs: Sequence[tuple[Any, Any]], *, part: str) -> Iterator[Round]:
    numbers: dict[str, int] = {}
    shown = 0
    for user, assistant in pairs:
        question = require_text(user.get("content"), what="content")
        answer = require_text(assistant.get("content"), what="content")
        ids = _shown_ids(question, user.get("images"))
        for image_id in ids:
            shown += 1
            numbers[image_id] = shown
        yield Round(
            images=tuple(_image(image_id, part=part) for image_id in ids),
            question=rename_mentions(question, numbers),
            answer=rename_mentions(answer, numbers),
        )


def _shown_ids(question: str, images: Any) -> list[str]:
    """Return the ids of the images that a question shows, in the order of their tags."""
    listed = images if isinstance(images, list) else []
    wanted = [
        file_id(one.get("image_id") if isinstance(one, Mapping) else one, what="image_id")
        for one in listed
    ]
    tagged = [match[2] for match in _MENTION.finditer(question) if match[3]]
    if question.count(TAG) != len(tagged) or sorted(tagged) != sorted(wanted):
        raise Rejected("placeholder_mismatch", f"tags show {tagged}, `images` holds {wanted}")
    return tagged


def rename_mentions(text: str, numbers: Mapping[str, int]) -> str:
    """Rewrite every mention of a known image to `Image 1`, its number.

    An id is matched whole, so `IMAGE#14` is never taken for the beginning of `IMAGE#1417`.

    Raises:
        Rejected: `placeholder_mismatch` if an `IMAGE#` is left over.
    """

    def rename(match: re.Match[str]) -> str:
        number = numbers.get(match[2])
        return match[0] if number is None else f"Image {number}"

    new = _MENTION.sub(rename, text)
    if _LEFT_OVER.search(new):
        raise Rejected("placeholder_mismatch", f"speaks of an image it does not show: {new[:80]!r}")
    return new


def _image(image_id: str, *, part: str) -> ImageRef:
    key = minigpt4.image_key(image_id) if part == "CC" else f"vg:{image_id}"
    return ImageRef(key=key, file=f"sparkles/SparklesDialogue{part}/images/{image_id}.jpg")


def _needs(part: str) -> tuple[Need, Need]:
    how = "follow the links of https://github.com/HYPJUDY/Sparkles and unpack in sparkles/"
    folder = f"sparkles/SparklesDialogue{part}/images/"
    return Need(paths=(file_of(part),), how=how), Need(paths=(folder,), how=how)


SOURCE = Source(
    name="sparkles_dialogue",
    about="dialogues that bring in images in each round, CC and VG (6.5 k)",
    needs=(*_needs("CC"), *_needs("VG")),
    licence="BSD-3 (code); dialogues under OpenAI's terms of use",
    read_entries=read_entries,
    known_count=KnownCount(number=4_521 + 2_000, of="rows"),
)
