"""Hostile annotation files: bytes and structure of good ones, changed at random from a seed."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vchat.prep.convert.convert import ImageLimits, convert_source
from vchat.prep.convert.doctor import examine_source
from vchat.prep.convert.recipe import Recipe, SourceChoice
from vchat.prep.convert.resolve import resolve_source
from vchat.prep.raw.image_files import ImageFiles
from vchat.prep.sources.source import check_needs

ODD: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    10**30,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x" * 70_000,
    "\ud83d",
    "\x00\x1b[2J",
    "<image>",
    "<image>" * 50,
    "../../etc/passwd",
    "/dev/zero",
    "a\nb",
    "0" * 5000,
    [],
    {},
    [[]],
    [None],
    {"": None},
    {"bytes": "x", "path": None},
)
ODD_BYTES = (
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\\ud800",
    b"\\u0000",
    b'"',
    b"\\",
    b"[" * 5000,
    b'{"a":' * 5000,
    b"}" * 50,
    b"]",
    b",",
    b"NaN",
    b"-",
    b"1e999999",
    b"9" * 6000,
    b"\n",
    b"\0" * 100,
    b"PAR1",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One source whose files lie in `data`, one of them changed."""

    data: str
    source: str
    """Name of the data set."""

    file: str = ""
    """Own data: the file, below `data`."""


def convert_case(case: Case) -> None:
    """Convert a source and examine it, as a build and `doctor` do."""
    choice = SourceChoice(name=case.source, file=f"{case.data}/{case.file}" if case.file else None)
    one = resolve_source(choice, recipe=Recipe(data=case.data))
    check_needs(one.source, one.data)
    with tempfile.TemporaryDirectory() as work:
        convert_source(
            one.source,
            data=one.data,
            images=ImageFiles(one.roots, folders=one.folders),
            work=Path(work),
            limits=ImageLimits(image_size=32, max_images=8),
            on_entry=lambda: None,
        )
    examine_source(one, sample=5, max_images=8, on_entry=lambda: None)


def change_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return the bytes with one to four changes."""
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + int(2 ** rng.uniform(0, 12)))
        other = rng.randrange(len(data) + 1)
        data = rng.choice(
            (
                data[:start] + bytes([rng.randrange(256)]) + data[start + 1 :],
                data[:start] + rng.choice(ODD_BYTES) + data[start:],
                data[:start] + rng.choice(ODD_BYTES) + data[end:],
                data[:start] + data[end:],
                data[:other] + data[start:end] + data[other:],
                data[:start],
            )
        )
    return data


def change_structure(value: Any, rng: random.Random) -> Any:
    """Return a JSON value in which one to four nodes are replaced, removed, doubled or renamed."""
    for _ in range(rng.randint(1, 4)):
        value = _change_node(value, rng, depth=0)
    return value


def _change_node(value: Any, rng: random.Random, *, depth: int) -> Any:
    if isinstance(value, list | dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        changed: Any = value.copy()
        action = rng.random()
        if action < 0.1:
            del changed[key]
        elif action < 0.2 and isinstance(changed, list):
            changed.append(changed[key])
        elif action < 0.2:
            changed[rng.choice(["", "\ud800", "id", f"{key} "])] = changed.pop(key)
        else:
            changed[key] = _change_node(value[key], rng, depth=depth + 1)
        return changed
    if isinstance(value, str) and rng.random() < 0.4:
        at = rng.randrange(len(value) + 1)
        return value[:at] + rng.choice(["\udfff", "<image>", "#", "/", "_", "\x1b[0m"]) + value[at:]
    if rng.random() < 0.05:
        for _ in range(200):
            value = [value]
        return value
    return rng.choice(ODD)


def change_file(original: Path, target: Path, rng: random.Random) -> None:
    """Write a changed copy of an annotation file: JSON, JSON Lines or Parquet."""
    data = original.read_bytes()
    if data.startswith(b"PAR1"):
        changed = change_bytes(data, rng) if rng.random() < 0.7 else None
        if changed is None:
            _write_other_types(original, target, rng)
            return
    elif rng.random() < 0.4 or not data:
        changed = change_bytes(data, rng)
    elif original.suffix == ".jsonl":
        lines = data.splitlines()
        number = rng.randrange(len(lines))
        one = change_structure(json.loads(lines[number]), rng)
        lines[number] = json.dumps(one).encode()
        changed = b"\n".join(lines)
    else:
        changed = json.dumps(change_structure(json.loads(data), rng)).encode()
    target.unlink(missing_ok=True)
    target.write_bytes(changed)


def _write_other_types(original: Path, target: Path, rng: random.Random) -> None:
    """Write a Parquet file with a column removed, empty, or of another type."""
    table = pq.read_table(original)
    number = rng.randrange(table.num_columns)
    name = table.column_names[number]
    others: tuple[Callable[[], pa.Array], ...] = (
        lambda: pa.nulls(len(table)),
        lambda: pa.array(range(len(table))),
        lambda: pa.array([b"\xff"] * len(table)),
        lambda: pa.array([["a", None]] * len(table)),
        lambda: pa.array([{"bytes": None, "path": "a"}] * len(table)),
    )
    table = table.remove_column(number)
    if rng.random() < 0.8:
        table = table.append_column(name, rng.choice(others)())
    target.unlink(missing_ok=True)
    pq.write_table(table, target)


def copy_world(world: Path, data: Path) -> None:
    """Copy a sample world by hard links; a changed file is a new one, so the world stays whole."""
    shutil.copytree(world, data, copy_function=lambda a, b: Path(b).hardlink_to(a))
