"""What the five sets of MIMIC-IT share: instruction files and groups of related instructions.

An instruction file is one object, `{"meta": .., "data": {id: {instruction, answer, image_ids,
rel_ins_ids}}}`, or Parquet with these as columns (and possibly pictures in place of their ids).
Memory: its texts, at most about 200 MB; never its images. `X_train.json`, an object of lists of
ids, gives the relations where the entries do not.

Related instructions that show equal images are one conversation. Relations may be one-sided, name
ids that do not exist, or lead to other images, so a group is a connected component over the
relations between equal image lists.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vchat.prep.raw.data_path import DataPath, find_files, path_below
from vchat.prep.raw.json_stream import members
from vchat.prep.raw.parquet_cells import column_names, read_rows
from vchat.prep.raw.rejected import Rejected
from vchat.prep.sources.mimicit.embedded import (
    EmbeddedPicture,
    embeds_pictures,
    read_embedding_entries,
)
from vchat.prep.sources.source import Converted, Need
from vchat.prep.sources.texts import id_of, require_object, rounds_sharing_images
from vchat.shards.format.record import ImageRef, Record

LICENCE = (
    "MIT by its label; access is gated, and its agreement allows research use only and adds the"
    " terms of TVQA, COCO, ActivityNet, VIST, Spot-the-Diff and Ego4D"
)
_RELATED = ("rel_ins_ids", "related instructions", "related_instructions")
"""Names of the field of related ids; that of the hub holds a blank."""

_COLUMNS = ("id", "instruction", "answer", "images", "image_ids", *_RELATED)
RESAMPLED = "resampled_224"
"""Mark of a record with MIMIC-IT's own pictures: stretched to 224 x 224, the aspect lost."""

HOME = "https://huggingface.co/datasets/pufanyi/MIMICIT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One entry of an instruction file; its fields are unchecked."""

    id: str
    question: Any
    answer: Any
    image_ids: tuple[Any, ...] | None
    """None if the field is not a list."""

    related_ids: tuple[str, ...]
    file: str
    """The annotation file, below the data folder."""

    defect: Rejected | None = None
    """Why nothing of the entry can be used: it is no object, or beyond the limits of JSON."""


def instructions_need(name: str) -> Need:
    """Return the instructions of the set `CGD`, `SD` .. in any packaging as a `Need`."""
    folder = f"MIMIC-IT/{name}"
    return Need(
        paths=(
            f"{folder}/{name}_instructions.json",
            f"{folder}/**/*.parquet",
            f"{folder}/{name}_train.json",
        ),
        how=f"download {name}_instructions.json from {HOME} (access on request), or the Parquet"
        f" files of {name}_Instructions (or of {name}, larger: each row brings its pictures), and"
        f" put them in {folder}/ of the data folder",
    )


def read_instructions(data: DataPath, name: str) -> Iterator[Instruction]:
    """Yield the instructions of a set, in file order, repeated ids included.

    Reads the JSON file if it exists, else every Parquet file with such columns; Parquet files
    with embedded pictures only if there are no others.

    Raises:
        ValueError: If there are no instructions, or a file is damaged.
    """
    folder = data / "MIMIC-IT" / name
    json_file = folder / f"{name}_instructions.json"
    entries: Iterator[tuple[str, Any, DataPath]]
    if json_file.is_file():
        entries = ((key, value, json_file) for key, value in members(json_file, "data"))
    else:
        entries = _parquet_instructions(folder, name=name, data=data)
    context = _read_context(folder / f"{name}_train.json")
    count = 0
    for key, value, file in entries:
        count += 1
        below = path_below(file, data)
        try:
            yield _instruction(key, require_object(value), context=context.get(key), file=below)
        except Rejected as defect:
            yield Instruction(
                id=key,
                question=None,
                answer=None,
                image_ids=None,
                related_ids=(),
                file=below,
                defect=defect,
            )
    if not count:
        raise ValueError(f"{folder}: holds no instructions: want {json_file.name}")


def _read_context(file: DataPath) -> Mapping[str, Any]:
    """Return instruction id -> related ids of a file; nothing if the file does not exist."""
    return dict(members(file)) if file.is_file() else {}


def image_ids_of(group: Sequence[Instruction]) -> tuple[Any, ...]:
    """Return the image ids of a group, unchecked: those of its first entry.

    Raises:
        Rejected: The entry's `defect`, or `bad_row` if its ids are not a list.
    """
    if group[0].defect is not None:
        raise group[0].defect
    if group[0].image_ids is None:
        raise Rejected("bad_row", "`image_ids` is not a list")
    return group[0].image_ids


def _parquet_instructions(
    folder: DataPath, *, name: str, data: DataPath
) -> Iterator[tuple[str, Any, DataPath]]:
    files = [
        file
        for file in find_files(folder, "**/*.parquet")
        if {"id", "instruction", "answer"} <= set(column_names(file))
    ]
    embedding = [file for file in files if embeds_pictures(file)]
    if len(embedding) == len(files):
        for file in embedding:
            columns = _known_columns(file)
            entries = read_embedding_entries(file, columns=columns, name=name, data=data)
            yield from ((id_of(entry, "id", otherwise=n), entry, file) for n, entry in entries)
        return
    for file in (file for file in files if file not in embedding):
        for number, entry in read_rows(file, columns=_known_columns(file)):
            yield id_of(entry, "id", otherwise=number), entry, file


def _known_columns(file: DataPath) -> list[str]:
    return [name for name in column_names(file) if name in _COLUMNS]


def embed_pictures(entries: Sequence[Instruction]) -> bool:
    """Tell whether the instructions show pictures and all of these are embedded in them."""
    shown = (one for entry in entries for one in entry.image_ids or ())
    return any(entry.image_ids for entry in entries) and all(
        isinstance(one, EmbeddedPicture) for one in shown
    )


def _instruction(key: str, value: Mapping[str, Any], *, context: Any, file: str) -> Instruction:
    """Make an instruction of an entry of either packaging; their field names differ.

    Args:
        key: The id of the instruction.
        value: The fields of the entry.
        context: Related ids of another file, used where the entry gives none.
        file: The annotation file, below the data folder.
    """
    images = value.get("image_ids", value.get("images"))
    related = next((value[name] for name in _RELATED if value.get(name)), context)
    return Instruction(
        id=key,
        question=value.get("instruction"),
        answer=value.get("answer"),
        image_ids=tuple(images) if isinstance(images, list) else None,
        related_ids=tuple(str(other) for other in related) if isinstance(related, list) else (),
        file=file,
    )


def make_record(
    group: Sequence[Instruction],
    images: Sequence[ImageRef],
    *,
    source: str,
    file: str,
    repairs: Counter[str] | None = None,
    marks: tuple[str, ...] = (),
) -> Converted:
    """Turn a group into one record; its first round shows the images.

    A pair with an empty text is left out.

    Raises:
        Rejected: `bad_row`, `bad_text`, `empty_text` if no pair is left.
    """
    pairs = [(one.question, one.answer) for one in group]
    rounds, rejected_pairs = rounds_sharing_images(pairs, images)
    record = Record(
        key=f"{source}/{group[0].id}",
        source=source,
        rounds=rounds,
        licence=LICENCE,
        file=file,
        record_id=group[0].id,
        marks=marks,
    )
    return Converted(record=record, rejected_pairs=rejected_pairs, repairs=repairs or Counter())


def group_related(entries: list[Instruction]) -> list[list[Instruction]]:
    """Return the connected components of related entries with equal image lists.

    Components are in the order of their first entry, entries in file order. A relation to an id
    of several entries means the first of them; each later one is a component of its own.
    """
    numbers: dict[str, int] = {}
    for number, entry in enumerate(entries):
        numbers.setdefault(entry.id, number)
    parents = list(range(len(entries)))
    for number, entry in enumerate(entries):
        for other in (numbers.get(name) for name in entry.related_ids):
            if (
                other is not None
                and numbers[entry.id] == number
                and _have_equal_images(entry, entries[other])
            ):
                _union(parents, number, other)
    groups: dict[int, list[Instruction]] = {}
    for number, entry in enumerate(entries):
        groups.setdefault(_root(parents, number), []).append(entry)
    return list(groups.values())


def _have_equal_images(one: Instruction, other: Instruction) -> bool:
    return one.image_ids is not None and one.image_ids == other.image_ids


def _root(parents: list[int], number: int) -> int:
    while parents[number] != number:
        parents[number] = parents[parents[number]]
        number = parents[number]
    return number


def _union(parents: list[int], one: int, other: int) -> None:
    """Join two components under the earlier root, so that the first entry names the group."""
    low, high = sorted((_root(parents, one), _root(parents, other)))
    parents[high] = low
