"""MIMIC-IT, what its five sets share: instruction files and groups of related instructions.

An instruction file is one object, `{"meta": .., "data": {id: {instruction, answer, image_ids,
rel_ins_ids}}}`, or Parquet with these as columns (and perhaps pictures in place of their ids). Its
texts are at most some 200 MB, so they are held in memory; images never are. `X_train.json`, an
object of lists of ids, gives the relations where the entries do not. Instructions that name each
other and show equal images are one conversation: relations may be one-sided, name ids that do not
exist, or cross to other images, so a group is a connected component over the relations between
equal image lists.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from vchat.prep.raw.data_path import DataPath, find_files, for_arrow, path_below
from vchat.prep.raw.json_stream import members
from vchat.prep.raw.parquet_cells import column_names
from vchat.prep.sources.mimicit.embedded import (
    EmbeddedPicture,
    embeds_pictures,
    read_embedding_entries,
)
from vchat.prep.sources.source import Converted, Need
from vchat.prep.sources.texts import rounds_sharing_images
from vchat.shards.format.record import ImageRef, Record

LICENCE = (
    "MIT by its label; access is gated, and its agreement allows research use only and adds the"
    " terms of TVQA, COCO, ActivityNet, VIST, Spot-the-Diff and Ego4D"
)
_RELATED = ("rel_ins_ids", "related instructions", "related_instructions")
"""Names of the field of related ids; the hub's holds a blank."""

_COLUMNS = ("id", "instruction", "answer", "images", "image_ids", *_RELATED)
RESAMPLED = "resampled_224"
"""Mark of a record whose pictures are MIMIC-IT's own: stretched to 224 x 224, the aspect lost."""

HOME = "https://huggingface.co/datasets/pufanyi/MIMICIT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One entry of an instruction file, its fields unchecked."""

    id: str
    question: Any
    answer: Any
    image_ids: tuple[Any, ...] | None
    """None if the field is not a list."""

    related_ids: tuple[str, ...]
    file: str
    """The annotation file, below the data folder."""


def instructions_need(name: str) -> Need:
    """Return the need for the instructions of the set `CGD`, `SD` .. in any packaging."""
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

    The JSON file is read if it is there, else every Parquet file with such columns; files that
    bring their pictures only if there are no others.

    Raises:
        ValueError: if there are none, or a file is damaged.
    """
    folder = data / "MIMIC-IT" / name
    json_file = folder / f"{name}_instructions.json"
    found: Iterator[tuple[str, Any, DataPath]]
    if json_file.is_file():
        found = ((key, value, json_file) for key, value in members(json_file, "data"))
    else:
        found = _parquet_instructions(folder, name=name, data=data)
    context = _read_context(folder / f"{name}_train.json")
    count = 0
    for key, value, file in found:
        count += 1
        entry = value if isinstance(value, Mapping) else {}
        yield _instruction(key, entry, context=context.get(key), file=path_below(file, data))
    if not count:
        raise ValueError(f"{folder}: holds no instructions: want {json_file.name}")


def _read_context(file: DataPath) -> Mapping[str, Any]:
    """Return instruction id -> ids to be used as its context, nothing if there is no such file."""
    return dict(members(file)) if file.is_file() else {}


def _parquet_instructions(
    folder: DataPath, *, name: str, data: DataPath
) -> Iterator[tuple[str, Any, DataPath]]:
    told = [
        file
        for file in find_files(folder, "**/*.parquet")
        if {"id", "instruction", "answer"} <= set(column_names(file))
    ]
    joined = [file for file in told if embeds_pictures(file)]
    if len(joined) == len(told):
        for file in joined:
            rows = read_embedding_entries(file, columns=_known_columns(file), name=name, data=data)
            yield from ((str(row["id"]), row, file) for row in rows)
        return
    for file in (file for file in told if file not in joined):
        with pq.ParquetFile(for_arrow(file)) as parquet:
            for batch in parquet.iter_batches(columns=_known_columns(file)):
                yield from ((str(row["id"]), row, file) for row in batch.to_pylist())


def _known_columns(file: DataPath) -> list[str]:
    return [name for name in column_names(file) if name in _COLUMNS]


def embed_pictures(entries: Sequence[Instruction]) -> bool:
    """Tell whether the instructions show pictures, and bring all of them themselves."""
    shown = (one for entry in entries for one in entry.image_ids or ())
    return any(entry.image_ids for entry in entries) and all(
        isinstance(one, EmbeddedPicture) for one in shown
    )


def _instruction(key: str, value: Mapping[str, Any], *, context: Any, file: str) -> Instruction:
    """Return an entry of either packaging; their fields have different names.

    Args:
        context: related ids that another file gives, used where the entry gives none.
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
    """Turn a group into one record, its images shown in the first round.

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

    Components are in the order of their first entry, entries in file order. Of entries with one
    id, the first is the one that relations mean; a later one stands alone.
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
    """Join two components; the earlier root stays, so that a group's first entry names it."""
    low, high = sorted((_root(parents, one), _root(parents, other)))
    parents[high] = low
