"""A base64 JSON of 2 GB, converted: peak memory and MB/s, beside plain ijson and the raw read.

Run: `python bench/base64_json.py [GB]` (2 by default, in a temporary folder). The data is that of
MIMIC-IT's SD: pairs of 224 by 224 pictures as PNG in base64 in one flat JSON object, and a question
about each pair. Each form is a process of its own; its peak is the largest sum of resident memory
over it and its children, shared pages counted in each, looked at 50 times a second. The file is in
the page cache for all of them. Exits with 1 if the peak of ours is above 600 MB.

    read      the file in blocks of 4 MB, nothing done with them
    ijson     `ijson.kvitems`, which streams a name and a value at a time; nothing kept
    convert   `vchat-prep plan`: every picture found, its header checked, records staged, planned
    build     `vchat-prep build` with one worker: the same, then every picture decoded and stored
"""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from vchat_testing.toy import toy_tokenizer

PICTURE_SIDE = 224
NUM_DRAWN = 64
LOOK_EVERY_S = 0.02
LIMIT_MB = 600
READ = "import sys\nwith open(sys.argv[1], 'rb') as f:\n while f.read(1 << 22): pass"
IJSON = "import ijson, sys\nfor _ in ijson.kvitems(open(sys.argv[1], 'rb'), ''): pass"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One form's cost."""

    seconds: float
    cpu_s: float
    """Of the process and its children."""

    peak_mb: float


def main() -> None:
    """Print MB/s, its ratio to the raw read, and the peak of every form."""
    wanted_bytes = int(float(sys.argv[1]) * 1e9) if len(sys.argv) > 1 else 2 * 10**9
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = write_sd(folder / "data", wanted_bytes=wanted_bytes)
        toy_tokenizer(folder / "tokenizer")
        forms = {
            "read": [sys.executable, "-c", READ, str(pictures)],
            "ijson": [sys.executable, "-c", IJSON, str(pictures)],
            "convert": prep_command("plan", folder),
            "build": prep_command("build", folder),
        }
        run([sys.executable, "-c", READ, str(pictures)])  # fills the page cache
        megabytes = pictures.stat().st_size / 1e6
        print(f"{megabytes:.0f} MB of base64 JSON")
        report({name: run(command) for name, command in forms.items()}, megabytes=megabytes)


def write_sd(data: Path, *, wanted_bytes: int) -> Path:
    """Write SD's instructions and pictures, of which few are distinct; returns the big file."""
    folder = data / "MIMIC-IT/SD"
    folder.mkdir(parents=True)
    texts = [base64.b64encode(draw_png(number)).decode() for number in range(NUM_DRAWN)]
    instructions, written, pair = {}, 0, 0
    with (folder / "SD.json").open("w") as file:
        while written < wanted_bytes:
            names = [f"SD_IMG_{pair:05d}_{side}" for side in (1, 2)]
            for side, name in enumerate(names):
                text = texts[(2 * pair + side) % NUM_DRAWN]
                written += file.write(f'{", " if written else "{"}"{name}": "{text}"')
            instructions[f"SD_INS_{pair:06d}"] = {
                "instruction": "What is different?",
                "answer": f"In the second picture {pair} leaves are gone.",
                "image_ids": names,
                "rel_ins_ids": [],
            }
            pair += 1
        file.write("}")
    (folder / "SD_instructions.json").write_text(json.dumps({"meta": {}, "data": instructions}))
    return folder / "SD.json"


def draw_png(number: int) -> bytes:
    """Return a picture whose PNG takes about as much as MIMIC-IT's do, 93 kB."""
    rng = np.random.default_rng(number)
    small = rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(small).resize((PICTURE_SIDE, PICTURE_SIDE)), dtype=np.int16)
    noisy = smooth + rng.integers(-10, 11, smooth.shape)
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def prep_command(command: str, folder: Path) -> list[str]:
    """Return a command line of vchat-prep that reads the data, into a folder of its own."""
    words = [
        sys.executable,
        "-m",
        "vchat.prep.commands.main",
        command,
        "--datasets",
        "otter_mimicit_sd",
    ]
    words += ["--data", str(folder / "data"), "--tokenizer", str(folder / "tokenizer")]
    return [*words, "--out", str(folder / command)]


def run(command: Sequence[str]) -> Measured:
    """Run a command to its end, looking at the memory of its processes."""
    start, peak, cpu = time.perf_counter(), 0.0, 0.0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
        while child.poll() is None:
            used, cpu_now = tree_use(child.pid)
            peak, cpu = max(peak, used), max(cpu, cpu_now)
            time.sleep(LOOK_EVERY_S)
        assert child.stderr is not None
        said = child.stderr.read().decode()
    if child.returncode:
        raise SystemExit(f"{' '.join(command)}: {said}")
    return Measured(seconds=time.perf_counter() - start, cpu_s=cpu, peak_mb=peak)


def tree_use(pid: int) -> tuple[float, float]:
    """Return MB resident and CPU seconds of a process and its children."""
    megabytes = cpu = 0.0
    try:
        top = psutil.Process(pid)
        for process in (top, *top.children(recursive=True)):
            megabytes += process.memory_info().rss / 1e6
            cpu += sum(process.cpu_times()[:2])
    except psutil.NoSuchProcess:
        pass
    return megabytes, cpu


def report(measured: dict[str, Measured], *, megabytes: float) -> None:
    """Print one line per form, and whether the bound on memory holds."""
    read = measured["read"]
    for name, one in measured.items():
        print(
            f"{name:8s} {megabytes / one.seconds:7.0f} MB/s ({read.seconds / one.seconds:.3f} of"
            f" read, {measured['ijson'].seconds / one.seconds:.2f}x ijson)"
            f"  {megabytes / max(one.cpu_s, 0.01):7.0f} MB per CPU s  peak {one.peak_mb:4.0f} MB"
        )
    worst = max(measured[name].peak_mb for name in ("convert", "build"))
    print(f"peak {worst:.0f} MB, {worst / LIMIT_MB:.2f} of the limit of {LIMIT_MB} MB")
    if worst > LIMIT_MB:
        sys.exit(1)


if __name__ == "__main__":
    main()
