"""Hostile annotation files of every source: no traceback, no hang, bounded memory, no lost row."""

from __future__ import annotations

import json
import logging
import random
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vchat.prep.sample_data.write_world import World, write_world
from vchat.prep.sources.catalogue import SOURCES
from vchat.prep.sources.source import annotation_files, image_paths
from vchat_testing.annotation_fuzz import Case, change_file, convert_case, copy_world
from vchat_testing.fuzzing import Sandbox
from vchat_testing.raw_data import turns, write_image

LOG = logging.getLogger(__name__)

SECONDS = 150.0
"""For all seeds of a run, one after the other from 0; those of `KNOWN_SEEDS` come first."""

KNOWN_SEEDS: tuple[int, ...] = ()
"""Seeds that found a fault once."""

OWN = ("array.json", "lines.jsonl", "messages.jsonl", "paths.parquet", "pictures.parquet")


def write_own(folder: Path) -> None:
    """Write own data in every packaging and form."""
    write_image(folder / "one.jpg")
    llava = [
        {"id": f"{n}", "image": "one.jpg", "conversations": turns("<image>\nQ?", f"A {n}.")}
        for n in range(6)
    ]
    image = {"type": "image_url", "image_url": {"url": "one.jpg"}}
    asked = {"role": "user", "content": [image, {"type": "text", "text": "Q?"}]}
    messages = [
        {"id": n, "messages": [asked, {"role": "assistant", "content": f"A {n}."}]}
        for n in range(6)
    ]
    (folder / "array.json").write_text(json.dumps(llava))
    (folder / "lines.jsonl").write_text("\n".join(map(json.dumps, llava)))
    (folder / "messages.jsonl").write_text("\n".join(map(json.dumps, messages)))
    pq.write_table(pa.Table.from_pylist(llava), folder / "paths.parquet")
    picture = {"bytes": (folder / "one.jpg").read_bytes(), "path": "one.jpg"}
    rows = [one | {"image": picture} for one in llava]
    pq.write_table(pa.Table.from_pylist(rows), folder / "pictures.parquet")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample world with own data beside it."""
    folder = tmp_path_factory.mktemp("fuzz") / "world"
    write_world(folder, World(images=120, seed=3))
    write_own(folder)
    return folder


def all_cases(data: Path) -> list[Case]:
    known = [Case(data=str(data), source=name) for name in SOURCES]
    return known + [Case(data=str(data), source="own", file=name) for name in OWN]


@pytest.mark.soak
def test_no_annotation_file_harms(world: Path, tmp_path: Path):
    data = tmp_path / "data"
    copy_world(world, data)
    cases = all_cases(data)
    sandbox = Sandbox(convert_case, warm=cases)
    faults, counts = [], {"done": 0, "refused": 0}
    longest, largest = 0.0, 0
    deadline = time.monotonic() + SECONDS
    seed = 0
    for seed in (*KNOWN_SEEDS, *range(10**6)):
        if time.monotonic() > deadline:
            break
        rng = random.Random(seed)
        case = rng.choice(cases)
        files = [case.file] if case.file else files_of(case, world)
        name = rng.choice(files)
        change_file(world / name, data / name, rng)
        outcome = sandbox.try_case(case)
        (data / name).unlink()
        (data / name).hardlink_to(world / name)
        counts[outcome.kind] = counts.get(outcome.kind, 0) + 1
        longest, largest = max(longest, outcome.seconds), max(largest, outcome.growth_mb)
        if fault := outcome.find_fault():
            faults.append(f"seed {seed}, {case.source} {name}: {fault}")
    sandbox.close()
    note = f"{seed} seeds, {counts}, longest {longest:.1f} s, largest growth {largest} MB"
    LOG.info(note)
    assert counts["done"] > 20
    assert counts["refused"] > 20
    assert faults == [], "\n".join(faults)


def files_of(case: Case, world: Path) -> list[str]:
    """Return the annotation files of a source, and its JSON files of pictures."""
    source = SOURCES[case.source]
    pictures = [path for path in image_paths(source, world) if path.is_file()]
    files = annotation_files(source, world) + pictures
    assert files, case.source
    return [str(file.relative_to(world)) for file in files]


LARGE = 15 * 2**20
"""Bytes of an entry just below the limit."""

LARGE_ENTRIES = {
    "text of four bytes a character": '"\U0001f600' + "x" * LARGE + '"',
    "escapes": '"' + "\\n" * (LARGE // 2) + '"',
    "halves of surrogate pairs": '"' + "\\ud83d" * (LARGE // 6) + '"',
    "brackets": "[" * (LARGE // 2) + "]" * (LARGE // 2),
    "brackets without end": "[" * LARGE,
    "empty objects": "[" + "{}," * (LARGE // 3 - 1) + "{}]",
    "as many objects as may be": "[" + '{"a":"b"},' * (2**17 - 9) + "{}]",
    "digits": "9" * LARGE,
    "digits of a fraction": "0." + "9" * LARGE,
    "numbers": "[" + "1," * (LARGE // 2 - 1) + "1]",
    "white space": " " * LARGE + "1",
    "quotes": '"",' * (LARGE // 3) + '""',
    "backslashes": '"' + "\\" * LARGE + '"',
    "a text without end": '"' + "x" * LARGE,
}


@pytest.mark.soak
def test_large_entries_stay_within_the_bounds(tmp_path: Path):
    write_own(tmp_path)
    case = Case(data=str(tmp_path), source="own", file="odd.json")
    good = (tmp_path / "array.json").read_text()
    sandbox = Sandbox(convert_case, warm=[Case(data=str(tmp_path), source="own", file=OWN[0])])
    faults = []
    for name, entry in LARGE_ENTRIES.items():
        asked = '{"from": "human", "value": "Q?"}'
        row = f'{{"conversations": [{asked}, {{"from": "gpt", "value": {entry}}}]}}'
        for packaging, text in (("array", f"{good[:-1]}, {row}, {row}]"), ("lines", row)):
            (tmp_path / "odd.json").write_text(text)
            outcome = sandbox.try_case(case)
            LOG.info(f"{name} {packaging}: {outcome}"[:300])
            if fault := outcome.find_fault():
                faults.append(f"{name}, {packaging}: {fault}")
    sandbox.close()
    assert faults == [], "\n".join(faults)
