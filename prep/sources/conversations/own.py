"""Your own data: LLaVA-style JSON or JSONL, ShareGPT, OpenAI `messages` JSONL, or Parquet of these.

Input: any file that `--datasets NAME=FILE` names; the content tells its packaging and the form of
each entry. Images are named by `image` or `images`, or by `image_url` parts inside a message; a
path is searched beside the file first, then in the data folder; a Parquet column `image` may hold
the pictures themselves. Output: one record per entry. Ids may be missing or repeat (in LLaVA's
larger mixtures they do): a repeated id with new content gets `~2`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from vchat.prep.raw.data_path import DataPath
from vchat.prep.raw.identity import normal_path
from vchat.prep.raw.rejected import Rejected
from vchat.prep.sources import image_names
from vchat.prep.sources.conversations.entry_fields import Conversation
from vchat.prep.sources.conversations.messages import num_assistant_turns, read_messages
from vchat.prep.sources.conversations.turns import num_answers, read_conversation
from vchat.prep.sources.entry_files import Cell, read_raw_entries, unique_keys
from vchat.prep.sources.source import Converted, Entry, Need, Source
from vchat.prep.sources.texts import id_of, require_object
from vchat.shards.format.record import ImageRef, Record

NAME = re.compile(r"[a-z0-9][a-z0-9_]*")


def own_source(name: str, file: DataPath) -> Source:
    """Return the source that reads `file` under the name the user gave it.

    Raises:
        ValueError: If the name cannot be part of a record's key.
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
    """Yield the entries of one file, in file order."""
    unique = unique_keys()
    for number, entry in read_raw_entries(file):
        entry_id = id_of(entry, "id", otherwise=number)
        convert = partial(to_record, entry, entry_id, name=name, file=file, unique=unique)
        yield Entry(id=entry_id, num_pairs=_num_answers(entry), convert=convert)


def to_record(
    entry: Any, entry_id: str, *, name: str, file: DataPath, unique: Callable[[str, str], str]
) -> Converted:
    """Turn one entry of either form into a record.

    Raises:
        Rejected: `bad_row` for neither form, `duplicate` for the content of an earlier entry, and
            those of `read_conversation` and `read_messages`.
    """
    entry = require_object(entry)
    conversation = _conversation(entry, file=file.name)
    key = unique(f"{name}/{entry_id}", repr(conversation))
    record = Record(
        key=key,
        source=name,
        rounds=conversation.rounds,
        system=conversation.system,
        licence="as the owner of the data says",
        file=file.name,
        record_id=entry_id,
    )
    return Converted(record=record)


def _num_answers(entry: Any) -> int:
    if isinstance(entry, Mapping) and entry.get("messages") not in (None, []):
        return num_assistant_turns(entry["messages"])
    return num_answers(entry)


def _conversation(entry: Mapping[str, Any], *, file: str) -> Conversation:
    images = [_image(path, file=file) for path in _paths(entry)]
    forms = [form for form in ("messages", "conversations") if entry.get(form) not in (None, [])]
    if len(forms) > 1:
        raise Rejected("bad_row", "both `messages` and `conversations`")
    if forms == ["messages"]:
        return read_messages(entry, images, make_image=partial(_image, file=file))
    if forms == ["conversations"]:
        return read_conversation(entry, images)
    raise Rejected("bad_row", f"neither `messages` nor `conversations` in {sorted(entry)[:8]}")


def _paths(entry: Mapping[str, Any]) -> list[Any]:
    """Return the values of `images` or `image`; null and what is empty mean that there is none.

    Raises:
        Rejected: `bad_row` if they name different images.
    """
    given = []
    for field in ("images", "image"):
        value = entry.get(field)
        values = value if isinstance(value, list) else [value]
        given.append([image for image in values if image not in (None, "")])
    images, single = given
    if images and single and single not in (images, images[:1]):
        raise Rejected("bad_row", "`image` and `images` name different images")
    return images or single


def _image(path: Any, *, file: str) -> ImageRef:
    """Return a reference to an image: a path, a `file:` URL, or a picture in the entry itself.

    Raises:
        Rejected: `bad_row` if it is not text, `missing_image` for a URL of another scheme.
    """
    if isinstance(path, Cell):
        key = image_names.key_of_path(path.path or "")
        return ImageRef(key=key, file=file, member=path.member)
    if isinstance(path, Mapping):
        path = path.get("path")
    if not isinstance(path, str):
        raise Rejected("bad_row", f"an image is named by {type(path).__name__}, not text")
    if path.startswith(("http:", "https:", "data:")):
        raise Rejected("missing_image", f"{path[:60]!r} is not a local file")
    path = normal_path(path.removeprefix("file://"))
    return ImageRef(key=image_names.key_of_path(path), file=path)
