"""Your own data: LLaVA-style JSON or JSONL, ShareGPT, OpenAI `messages` JSONL, or Parquet of these.

Input: any file that `--datasets NAME=FILE` names; its packaging and the form of each row are told
by content. Images are named by `image` or `images`, or by `image_url` parts inside a message; a
path is looked up beside the file first, then in the data folder; a Parquet column `image` may hold
the pictures themselves. Output: one record per row. Ids may be missing or repeat (in LLaVA's larger
mixtures they do): a repeated id with new content gets `~2`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from vchat.prep.raw.data_path import DataPath
from vchat.prep.raw.rejected import Rejected
from vchat.prep.sources import image_names
from vchat.prep.sources.conversations.messages import num_assistant_turns, rounds_of_messages
from vchat.prep.sources.conversations.turns import num_answers, rounds_of
from vchat.prep.sources.entry_files import Cell, read_raw_entries, unique_keys
from vchat.prep.sources.source import Converted, Entry, Need, Source
from vchat.shards.format.record import ImageRef, Record, Round

NAME = re.compile(r"[a-z0-9][a-z0-9_]*")


def own_source(name: str, file: DataPath) -> Source:
    """Return the source that reads `file` under the name the user gave it.

    Raises:
        ValueError: if the name cannot be part of a record's key.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"data set name {name!r}: want lower-case letters, digits and _")
    return Source(
        name=name,
        about=f"your own data in {file.name}",
        needs=(Need(paths=(file.name,), how="give the path of an existing file"),),
        licence="as the owner of the data says",
        read_entries=lambda data: read_entries(name, file),
    )


def read_entries(name: str, file: DataPath) -> Iterator[Entry]:
    """Yield the rows of one file, in file order."""
    unique = unique_keys()
    for number, row in read_raw_entries(file):
        row_id = str(row.get("id", number)) if isinstance(row, Mapping) else str(number)
        convert = partial(to_record, row, row_id, name=name, file=file, unique=unique)
        yield Entry(id=row_id, num_pairs=_num_answers(row), convert=convert)


def to_record(
    entry: Any, entry_id: str, *, name: str, file: DataPath, unique: Callable[[str, str], str]
) -> Converted:
    """Turn one row of either form into a record.

    Raises:
        Rejected: `bad_row` for neither form, `duplicate` for the content of an earlier row, and
            those of the two readers.
    """
    if not isinstance(entry, Mapping):
        raise Rejected("bad_row", f"the row is {type(entry).__name__}, not an object")
    rounds = _rounds(entry, name=name, file=file.name)
    key = unique(f"{name}/{entry_id}", repr(rounds))
    record = Record(
        key=key,
        source=name,
        rounds=rounds,
        licence="as the owner of the data says",
        file=file.name,
        record_id=entry_id,
    )
    return Converted(record=record)


def _num_answers(entry: Any) -> int:
    if isinstance(entry, Mapping) and "messages" in entry:
        return num_assistant_turns(entry["messages"])
    return num_answers(entry)


def _rounds(entry: Mapping[str, Any], *, name: str, file: str) -> tuple[Round, ...]:
    images = [_image(path, name=name, file=file) for path in _paths(entry)]
    if "messages" in entry:
        image = partial(_image, name=name, file=file)
        return rounds_of_messages(entry["messages"], images, make_image=image)
    if "conversations" in entry:
        return rounds_of(entry, images)
    raise Rejected("bad_row", f"neither `messages` nor `conversations` in {sorted(entry)[:8]}")


def _paths(entry: Mapping[str, Any]) -> list[Any]:
    """Return the values of `images` or `image`; null and empty text mean that there is none."""
    images = entry.get("images")
    if images is None:
        images = entry.get("image")
    if not isinstance(images, list):
        images = [images]
    return [image for image in images if image not in (None, "")]


def _image(path: Any, *, name: str, file: str) -> ImageRef:
    """Return the place of an image named by a path or a `file:` URL, or brought by its row.

    Raises:
        Rejected: `bad_row` if it is no text, `missing_image` for an address that is not a file's.
    """
    if isinstance(path, Cell):
        key = image_names.key_of_path(path.path or f"{file}:{path.member}", otherwise=name)
        return ImageRef(key=key, file=file, member=path.member)
    if isinstance(path, Mapping):
        path = path.get("path")
    if not isinstance(path, str):
        raise Rejected("bad_row", f"an image is named by {type(path).__name__}, not text")
    if path.startswith(("http:", "https:", "data:")):
        raise Rejected("missing_image", f"{path[:60]!r} is not a local file")
    path = path.removeprefix("file://")
    return ImageRef(key=image_names.key_of_path(path, otherwise=name), file=path)
