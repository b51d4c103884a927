"""Convert and plan a million records: seconds and peak memory, beside plain ijson on the file.

Run: `python bench/build_plan.py [RECORDS]` (1,000,000 by default). The data is as `llava_dial`: one
JSON array of dialogues of two rounds, each about one of 100,000 photographs (hard links to a few
drawn ones; the header of each is read). Each form is a process of its own, measured as in
`bench/base64_json.py`.

    ijson     `ijson.items` over the annotation file, nothing kept
    convert   `vchat-prep plan`: every row converted and staged, then the plan made and stored
    plan      the same command again: the records are staged already, only the plan is made
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from base64_json import Measured, run

from vchat_testing.raw_data import write_image
from vchat_testing.toy import toy_tokenizer

NUM_PHOTOS = 100_000
NUM_DRAWN = 6
IJSON = "import ijson, sys\nfor _ in ijson.items(open(sys.argv[1], 'rb'), 'item'): pass"
ANSWER = "The boat lies at the pier, and two people are about to step into it. " * 2


def main() -> None:
    """Print seconds, records per second and peak of every form."""
    num_records = int(float(sys.argv[1])) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        annotations = write_data(folder / "data", num_records=num_records)
        toy_tokenizer(folder / "tokenizer")
        command = [
            sys.executable,
            "-m",
            "vchat.prep.commands.main",
            "plan",
            "--datasets",
            "llava_dial",
        ]
        command += ["--data", str(folder / "data"), "--tokenizer", str(folder / "tokenizer")]
        command += ["--out", str(folder / "out"), "--concatenate", "2"]
        measured = {"ijson": run([sys.executable, "-c", IJSON, str(annotations)])}
        measured["convert"] = run(command)
        shutil.rmtree(folder / "out/.work/results", ignore_errors=True)
        measured["plan"] = run(command)
        report(measured, num_records=num_records, megabytes=annotations.stat().st_size / 1e6)


def write_data(data: Path, *, num_records: int) -> Path:
    """Write photographs and the annotation file; returns the latter."""
    photos = data / "coco/train2017"
    drawn = [data / f"drawn/{number}.jpg" for number in range(NUM_DRAWN)]
    for number, path in enumerate(drawn):
        write_image(path, "large", number=number)
    photos.mkdir(parents=True)
    for number in range(min(NUM_PHOTOS, num_records)):
        os.link(drawn[number % NUM_DRAWN], photos / f"{number:012d}.jpg")
    path = data / "llava/conversation_58k.json"
    path.parent.mkdir()
    with path.open("w") as file:
        file.write("[")
        for number in range(num_records):
            file.write((", " if number else "") + json.dumps(row(number)))
        file.write("]")
    return path


def row(number: int) -> dict[str, object]:
    """Return one dialogue as LLaVA has it."""
    texts = ("<image>\nWhat is at the pier?", ANSWER, "What happens next?", f"{ANSWER}{number}")
    turns = [
        {"from": "gpt" if turn % 2 else "human", "value": text} for turn, text in enumerate(texts)
    ]
    image = f"{number % NUM_PHOTOS:012d}.jpg"
    return {"id": f"{number:09d}", "image": image, "conversations": turns}


def report(measured: dict[str, Measured], *, num_records: int, megabytes: float) -> None:
    """Print one line per form."""
    print(f"{num_records} records, {megabytes:.0f} MB of annotations")
    for name, one in measured.items():
        print(
            f"{name:8s} {one.seconds:6.1f} s ({one.cpu_s:.1f} s CPU,"
            f" {num_records / one.seconds:8.0f} records/s,"
            f" {one.seconds / measured['ijson'].seconds:5.2f}x the time of ijson)"
            f"  peak {one.peak_mb:4.0f} MB"
        )


if __name__ == "__main__":
    main()
