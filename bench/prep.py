"""A build against the bare loop that decodes, resizes and encodes the same photographs.

Run: `python bench/prep.py [PHOTOS]` (600 by default). LLaVA-like data, drawn: one photograph of 640
by 480 pixels and one question each, stored with a shorter side of 224 pixels. The loop reads each
file, decodes, resizes and encodes it with the library and settings of the build, and keeps nothing:
the limit of a build on one core. Runs take turns, and medians are printed. CPU seconds hold on a
busy machine, seconds of the clock do not; those of worker processes cannot be counted from here.

    limit     the bare loop
    build 1   `vchat-prep build` with one worker: convert, plan, encode, tokens, tar, checksums
    build 2   with two workers
"""

from __future__ import annotations

import io
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from vchat.prep.build import build
from vchat.prep.recipe import Recipe, SourceChoice

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from toy import toy_tokenizer

SIZE = (640, 480)
SHORTER_SIDE = 224
STORED = (299, 224)
QUALITY = 90
REPETITIONS = 3
NUM_DRAWN = 20
ANSWER = "The picture shows a wide landscape in soft light, with many small things in it. " * 4


def main() -> None:
    """Print samples per second of all forms, and their ratios to the limit."""
    num_photos = int(sys.argv[1]) if len(sys.argv) > 1 else 600
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder, num_photos=num_photos)
        forms: dict[str, Callable[[int], None]] = {
            "limit": lambda turn: bare_loop(folder),
            "build 1": lambda turn: one_build(folder, turn=turn, workers=1),
            "build 2": lambda turn: one_build(folder, turn=turn, workers=2),
        }
        report(timed(forms), num_photos=num_photos)


def write_data(folder: Path, *, num_photos: int) -> None:
    """Write photographs, LLaVA's two annotation files and a tokenizer."""
    rng = np.random.default_rng(0)
    photos = folder / "data/coco/train2017"
    photos.mkdir(parents=True)
    rows = []
    drawn = [photograph(rng) for _ in range(NUM_DRAWN)]
    for number in range(num_photos):
        name = f"{number:012d}"
        shifted = np.roll(drawn[number % NUM_DRAWN], 7 * number, axis=1)
        Image.fromarray(shifted).save(photos / f"{name}.jpg", quality=95)
        turns = (("human", "<image>\nWhat do you see?"), ("gpt", f"{ANSWER}{number}"))
        talk = [{"from": role, "value": text} for role, text in turns]
        rows.append({"id": name, "image": f"{name}.jpg", "conversations": talk})
    llava = folder / "data/llava"
    llava.mkdir()
    (llava / "detail_23k.json").write_text(json.dumps(rows))
    (llava / "complex_reasoning_77k.json").write_text("[]")
    toy_tokenizer(folder / "tokenizer")


def photograph(rng: np.random.Generator) -> np.ndarray:
    """Draw uint8[480, 640, 3] with the spectrum of photographs: amplitude as 1 / frequency."""
    width, height = SIZE
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    amplitude = 1 / np.maximum(np.hypot(rows, columns), 1 / width)
    planes = []
    for _ in range(3):
        phase = np.exp(2j * np.pi * rng.random(amplitude.shape))
        plane = np.fft.irfft2(amplitude * phase, s=(height, width))
        planes.append(128 + 45 * plane / plane.std())
    return np.stack(planes, axis=-1).clip(0, 255).astype(np.uint8)


def bare_loop(folder: Path) -> None:
    """Read, decode, resize and encode every photograph."""
    for path in sorted((folder / "data/coco/train2017").iterdir()):
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            small = image.resize(STORED, Image.Resampling.BICUBIC)
        small.save(io.BytesIO(), "JPEG", quality=QUALITY)


def one_build(folder: Path, *, turn: int, workers: int) -> None:
    """Make a whole shard set in a folder of its own."""
    recipe = Recipe(
        source=(SourceChoice(name="llava"),),
        data=str(folder / "data"),
        tokenizer=str(folder / "tokenizer"),
        out=str(folder / f"out-{turn}-{workers}"),
        eval_fraction=0.0,
        shard_size="2MB",
        workers=workers,
    )
    assert recipe.image.size == SHORTER_SIDE
    assert recipe.image.quality == QUALITY
    build(recipe)


def timed(forms: dict[str, Callable[[int], None]]) -> dict[str, tuple[float, float]]:
    """Run the forms in turns; return median seconds of CPU and of the clock."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
    for turn in range(REPETITIONS + 1):
        for name, run in forms.items():
            cpu, clock = time.process_time(), time.perf_counter()
            run(turn)
            if turn > 0:  # the first turn warms up
                seconds[name].append((time.process_time() - cpu, time.perf_counter() - clock))
    return {
        name: (statistics.median(c for c, _ in times), statistics.median(w for _, w in times))
        for name, times in seconds.items()
    }


def report(seconds: dict[str, tuple[float, float]], *, num_photos: int) -> None:
    """Print one line per form."""
    limit_cpu, limit_clock = seconds["limit"]
    for name, (cpu, clock) in seconds.items():
        line = f"{name:8s} {num_photos / clock:7.1f} samples/s ({limit_clock / clock:.2f}x)"
        if name != "build 2":
            line += f"  {num_photos / cpu:7.1f} samples per CPU s ({limit_cpu / cpu:.2f}x)"
        print(line)


if __name__ == "__main__":
    main()
