"""Odd shard sets: one random change of bytes or structure each, told by a seed.

A change of structure leaves all digests right, as a stranger's set would have them, so that what
it changes is reached and not only its digest.
"""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vchat.shards.text.tokenizer import TextTokenizer
from vchat_testing.set_editor import Members, SetEditor

ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 7, 513, 2**31 - 1, 2**31, 2**62, 2**63, 10**30, 1.5, 1e308),
    *("", " ", "x", "0", "../../x", "/etc/passwd", "VICTIM", "a" * 70_000, "0" * 64, "\x1b[31mred"),
    *("a\nb", "\0", "\u202e", "train-000000.tar", "part-00000.parquet", "json", "9.jpg"),
    *([], {}, [[]], [None] * 9, {"": {}}, [0, 0], [2**31 - 1] * 4, {"content": 5}),
)
"""Values that stand where others are wanted; VICTIM becomes the path of a file of the user."""

DEEP = "DEEP"


def change_set(folder: Path, *, seed: int, victim: Path) -> str:
    """Change a shard set at random; return what was done.

    Args:
        folder: A whole set, which is changed.
        seed: Equal seeds give equal changes of equal sets.
        victim: A file outside of the set that odd names lead to.
    """
    rng = random.Random(seed)
    kind = rng.choice(KINDS)
    return f"seed {seed}, {kind.__name__}: {kind(folder, rng, str(victim))}"


def is_of_bytes(what: str) -> bool:
    """Whether a change left digests as they were, so that no reader may deliver other samples."""
    return "damage_bytes:" in what or "replace_file:" in what


def damage_bytes(folder: Path, rng: random.Random, victim: str) -> str:
    """Flip bits, cut, splice or repeat bytes of one file; digests stay."""
    path = _any_file(folder, rng)
    path.write_bytes(_damage(path.read_bytes(), rng))
    return path.relative_to(folder).as_posix()


def damage_and_seal(folder: Path, rng: random.Random, victim: str) -> str:
    """Damage one file, and make the digests right."""
    edited = SetEditor(folder)
    path = _any_file(folder, rng)
    path.write_bytes(_damage(path.read_bytes(), rng))
    if path.name != "manifest.json":
        edited.seal()
    return path.relative_to(folder).as_posix()


def replace_file(folder: Path, rng: random.Random, victim: str) -> str:
    """Put a pipe, a device, a folder, a link or nothing in the place of a file."""
    path = _any_file(folder, rng)
    path.unlink()
    kind = rng.choice(["pipe", "device", "folder", "link out", "link to itself", "nothing"])
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind != "nothing":
        targets = {"device": "/dev/zero", "link out": victim, "link to itself": path.name}
        path.symlink_to(targets[kind])
    return f"{kind} at {path.relative_to(folder)}"


def change_manifest(folder: Path, rng: random.Random, victim: str) -> str:
    """Change values anywhere in the manifest."""
    edited = SetEditor(folder)
    what = [_change_tree(edited.manifest, rng, victim) for _ in range(rng.choice([1, 1, 1, 3]))]
    _write_json(folder / "manifest.json", edited.manifest, sealed=edited)
    return ", ".join(what)


def change_index_values(folder: Path, rng: random.Random, victim: str) -> str:
    """Change one value of one row of the index."""
    edited = SetEditor(folder)
    rows = edited.rows()
    row = rng.randrange(len(rows))
    what = _change_tree(rows[row], rng, victim)
    try:
        edited.write_rows(rows)
    except (pa.ArrowException, OverflowError, TypeError, ValueError, AttributeError):
        edited.write_table(pa.Table.from_pylist([{"key": repr(rows[row])}]))
    edited.seal()
    return f"row {row}: {what}"


def change_index_table(folder: Path, rng: random.Random, victim: str) -> str:
    """Change the columns or the rows of the index as a whole."""
    edited = SetEditor(folder)
    table = pq.read_table(edited.index_file)
    name = rng.choice(table.schema.names)
    column = table.schema.get_field_index(name)
    how = rng.choice(["drop", "twice", "nulls", "reverse", "rows twice", "fewer rows", "no rows"])
    how = rng.choice([how, "not text", "other type"])
    if how == "drop":
        table = table.drop_columns([name])
    elif how == "twice":
        table = table.append_column(name, table[name])
    elif how == "nulls":
        nulls = pa.nulls(table.num_rows, table.schema.field(name).type)
        table = table.set_column(column, table.schema.field(name), nulls)
    elif how == "other type":
        table = table.set_column(column, name, pa.array([1.5] * table.num_rows))
    elif how == "not text":
        column = table.schema.get_field_index("key")
        raw = pa.array([b"\xff\xfe"] * table.num_rows, pa.binary())
        table = table.set_column(column, "key", raw.view(pa.string()))
    else:
        order = {
            "reverse": range(table.num_rows)[::-1],
            "rows twice": [*range(table.num_rows)] * 2,
            "fewer rows": range(table.num_rows - 1),
            "no rows": range(0),
        }[how]
        table = table.take(pa.array(order, pa.int64()))
    edited.write_table(table)
    edited.seal()
    return f"{how} {name}"


def change_samples(folder: Path, rng: random.Random, victim: str) -> str:
    """Change members of samples; index and digests follow."""
    edited = SetEditor(folder)
    how = rng.choice(["json", "json", "ids", "mask", "bytes", "remove", "add", "large ids"])

    def change(stem: str, members: Members) -> Members:
        if rng.random() < 0.5:
            return members
        if how == "json":
            described = json.loads(members["json"])
            _change_tree(described, rng, victim)
            return members | {"json": _to_json(described)}
        if how in ("ids", "mask", "large ids"):
            name, kind = ("mask.npy", "|u1") if how == "mask" else ("tokens.npy", "<i4")
            head, body = members[name][:128], members[name][128:]
            array = np.frombuffer(body, kind).copy()
            value = rng.choice([2**31 - 1, -1]) if how == "large ids" else rng.randrange(4)
            array[rng.randrange(len(array))] = value
            return members | {name: head + array.tobytes()}
        name = rng.choice(sorted(members))
        if how == "bytes":
            return members | {name: _damage(members[name], rng)}
        if how == "add":
            return members | {rng.choice(["9.jpg", "x", "0.png", "json.json"]): b"x"}
        return {one: data for one, data in members.items() if one != name}

    edited.edit_samples(change, shard=rng.randrange(len(edited.manifest["shards"])))
    edited.seal()
    return how


def change_tokenizer(folder: Path, rng: random.Random, victim: str) -> str:
    """Change the tokenizer's files; where it still loads, its fingerprint is right afterwards."""
    edited = SetEditor(folder)
    name = rng.choice(["tokenizer.json", "tokenizer.json", "tokenizer_config.json"])
    path = folder / "tokenizer" / name
    content = json.loads(path.read_text())
    what = _change_tree(content, rng, victim)
    path.write_bytes(_to_json(content))
    if rng.random() < 0.5:
        _follow_tokenizer(edited)
    edited.seal()
    return f"{name}: {what}"


def _follow_tokenizer(edited: SetEditor) -> None:
    """Make fingerprint and ids those of the tokenizer, as far as it can be loaded."""
    stated = edited.folder / "tokenizer" / "fingerprint.json"
    stated.unlink()
    fingerprint = "0" * 64
    try:
        loaded = TextTokenizer.load(edited.folder / "tokenizer")
        fingerprint = loaded.fingerprint
        names = ("begin_id", "end_id", "image_id", "num_ids")
        edited.manifest["tokenizer"] |= {name: getattr(loaded, name) for name in names}
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
    edited.manifest["tokenizer"]["fingerprint"] = fingerprint
    edited.manifest["digests"]["tokenizer"] = fingerprint
    stated.write_text(json.dumps({"fingerprint": fingerprint}))


KINDS: tuple[Callable[[Path, random.Random, str], str], ...] = (
    damage_bytes,
    damage_and_seal,
    replace_file,
    change_manifest,
    change_manifest,
    change_index_values,
    change_index_values,
    change_index_table,
    change_samples,
    change_samples,
    change_tokenizer,
)


def _any_file(folder: Path, rng: random.Random) -> Path:
    return rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))


def _damage(data: bytes, rng: random.Random) -> bytes:
    """Return bytes with bits flipped, cut, or with a piece repeated or zeroed."""
    if not data:
        return b"\0"
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice([1, 8, 512, 4096]))
    how = rng.randrange(5)
    if how == 0:
        flipped = data[start] ^ 1 << rng.randrange(8)
        return data[:start] + bytes([flipped]) + data[start + 1 :]
    if how == 1:
        return data[:start]
    if how == 2:
        return data[:end] + data[start:end] * rng.choice([1, 30]) + data[end:]
    if how == 3:
        return data[:start] + bytes(end - start) + data[end:]
    return data[:start] + rng.randbytes(end - start) + data[end:]


def _change_tree(tree: Any, rng: random.Random, victim: str) -> str:
    """Replace, remove or repeat one value somewhere in a tree; return where."""
    steps: list[Any] = []
    inner = tree
    while True:
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        key = rng.choice(keys)
        steps.append(key)
        below = inner[key]
        if not isinstance(below, dict | list) or not below or rng.random() < 0.2:
            break
        inner = below
    place = "/".join(map(str, steps))
    if isinstance(inner, dict) and rng.random() < 0.15:
        del inner[key]
        return f"no {place}"
    value = copy.deepcopy(rng.choice([*ODD, DEEP]))
    inner[key] = victim if value == "VICTIM" else value
    if isinstance(inner, list) and rng.random() < 0.2:
        inner.append(inner[0])
    return f"{place} = {str(value)[:20]!r}"


def _to_json(content: Any) -> bytes:
    deep = "[" * 5000 + "]" * 5000
    return json.dumps(content).replace(json.dumps(DEEP), deep).encode()


def _write_json(path: Path, content: Any, *, sealed: SetEditor) -> None:
    sealed.write_manifest()
    path.write_bytes(_to_json(content | {"sha256": sealed.manifest.get("sha256")}))
