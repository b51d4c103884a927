"""A build against the bare loop that re-encodes the same photographs, and against three peers.

Run: `python bench/prep.py [PHOTOS [PYTHON]]` (3,000 photographs by default). LLaVA-like data:
one natural photograph of 640 by 480 pixels, about 77 kB, with one question each, stored with a
shorter side of 224 pixels. PYTHON is that of an environment with `PEERS`; it is made in
`build/peers` if none is given. All forms of a turn run one after the other; medians are printed.
CPU seconds hold on a busy machine, seconds of the clock do not; those of worker processes are in
the CPU seconds of `build 2` and of litdata.

    limit       read, decode, resize, encode with the libraries of the build; nothing is kept
    limit, Pillow   the same with Pillow alone: what the libraries are worth
    build 1     `vchat-prep build` with one worker: convert, plan, encode, tokens, tar, checksums
    build 2     with two workers
    PEER        a script of its users (`prep_peers.py`): re-encode, tokenize, write; with the
                libraries of the build (`fast`), and with Pillow as its documentation does

The build decodes with simplejpeg, resizes with torch and encodes with simplejpeg; the two rows of
the limit say what that is worth. Decoding is equal to Pillow's to the last bit. Torch's bicubic
filter for bytes is within one grey level of Pillow's and works in integers: equal bytes with and
without AVX2. Decoding at half size (scaled DCT) would be less work, but is 51 grey levels off.
"""

from __future__ import annotations

import json
import logging
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from functools import partial
from pathlib import Path

import simplejpeg
from prep_peers import CODECS, QUALITY
from vchat.prep.build import build
from vchat.prep.images import ImagePolicy, encode_for_shard
from vchat.prep.recipe import Recipe, SourceChoice

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from toy import toy_tokenizer

ROOT = Path(__file__).parents[1]

PEERS = (
    *("webdataset==1.0.2", "mosaicml-streaming==0.13.0", "litdata==0.2.76"),
    *("scikit-image==0.26.0", "scikit-learn==1.9.1", "simplejpeg==1.9.0", "tokenizers==0.22.2"),
)
REPETITIONS = 3
ANSWER = "The picture shows a wide landscape in soft light, with many small things in it. " * 4

Cost = tuple[float, float]
"""Seconds of the clock and of CPU."""


def main() -> None:
    """Print samples per second of all forms, and their ratios to the limit."""
    num_photos = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    python = sys.argv[2] if len(sys.argv) > 2 else peer_python()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder, num_photos=num_photos, python=python)
        check_same_libraries(folder)
        forms: dict[str, Callable[[Path], Cost]] = {
            "limit": lambda out: timed(partial(bare_loop, folder, "fast")),
            "limit, Pillow": lambda out: timed(partial(bare_loop, folder, "pillow")),
            "build 1": lambda out: timed(partial(one_build, folder, out, workers=1)),
            "build 2": lambda out: timed(partial(one_build, folder, out, workers=2)),
        }
        for peer in ("webdataset", "mosaicml", "litdata"):
            for codec in ("fast", "pillow"):
                forms[f"{peer}, {codec}"] = partial(run_peer, python, peer, codec, folder)
        report(measured(forms, folder), num_photos=num_photos)


def peer_python() -> str:
    """Return the Python of an environment with the peers; makes it the first time."""
    folder = ROOT / "build/peers"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([folder / "bin/pip", "install", "--quiet", *PEERS], check=True)
        (folder / "ready").touch()
    return str(folder / "bin/python")


def write_data(folder: Path, *, num_photos: int, python: str) -> None:
    """Write photographs, LLaVA's two annotation files and a tokenizer."""
    photos = folder / "data/coco/train2017"
    photos.mkdir(parents=True)
    peers = Path(__file__).with_name("prep_peers.py")
    subprocess.run([python, peers, "photos", photos, str(num_photos)], check=True)
    rows = []
    for number in range(num_photos):
        turns = (("human", "<image>\nWhat do you see?"), ("gpt", f"{ANSWER}{number}"))
        talk = [{"from": role, "value": text} for role, text in turns]
        name = f"{number:012d}"
        rows.append({"id": name, "image": f"{name}.jpg", "conversations": talk})
    llava = folder / "data/llava"
    llava.mkdir()
    (llava / "detail_23k.json").write_text(json.dumps(rows))
    (llava / "complex_reasoning_77k.json").write_text("[]")
    toy_tokenizer(folder / "tokenizer")


def check_same_libraries(folder: Path) -> None:
    """Check that the loop makes the bytes that a build stores."""
    data = (folder / "data/coco/train2017/000000000000.jpg").read_bytes()
    assert simplejpeg.decode_jpeg_header(data)[:2] == (480, 640)
    assert encode_for_shard(data, ImagePolicy(quality=QUALITY), name="").data == CODECS["fast"](
        data
    )


def bare_loop(folder: Path, codec: str) -> None:
    """Read, decode, resize and encode every photograph."""
    for path in sorted((folder / "data/coco/train2017").iterdir()):
        CODECS[codec](path.read_bytes())


def one_build(folder: Path, out: Path, *, workers: int) -> None:
    """Make a whole shard set."""
    recipe = Recipe(
        source=(SourceChoice(name="llava"),),
        data=str(folder / "data"),
        tokenizer=str(folder / "tokenizer"),
        out=str(out),
        eval_fraction=0.0,
        shard_size="4MB",
        workers=workers,
    )
    build(recipe)


def timed(run: Callable[[], None]) -> Cost:
    """Run in this process; return seconds of the clock and of CPU, ended children included."""
    clock, cpu = time.perf_counter(), cpu_seconds()
    run()
    return time.perf_counter() - clock, cpu_seconds() - cpu


def cpu_seconds() -> float:
    """Return CPU seconds of this process and of its children that have ended."""
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def run_peer(python: str, peer: str, codec: str, folder: Path, out: Path) -> Cost:
    """Run a peer's script and return what it measured."""
    script = Path(__file__).with_name("prep_peers.py")
    command = [python, script, peer, codec, folder, out]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    clock, cpu = done.stdout.splitlines()[-1].split()
    return float(clock), float(cpu)


def measured(forms: dict[str, Callable[[Path], Cost]], folder: Path) -> dict[str, Cost]:
    """Run the forms in turns; return the medians."""
    costs: dict[str, list[Cost]] = {name: [] for name in forms}
    forms["build 1"](folder / "warm")
    for turn in range(REPETITIONS):
        for number, (name, run) in enumerate(forms.items()):
            costs[name].append(run(folder / f"out-{turn}-{number}"))
    return {
        name: (statistics.median(c for c, _ in found), statistics.median(c for _, c in found))
        for name, found in costs.items()
    }


def report(costs: dict[str, Cost], *, num_photos: int) -> None:
    """Print one line per form; a sample has one image, so these are images per second as well."""
    limit_clock, limit_cpu = costs["limit"]
    for name, (clock, cpu) in costs.items():
        print(
            f"{name:20s} {num_photos / clock:7.1f} samples/s ({limit_clock / clock:.2f} of limit)"
            f"  {num_photos / cpu:7.1f} per CPU s ({limit_cpu / cpu:.2f} of limit)"
        )
    one, two = costs["build 1"], costs["build 2"]
    print(f"build 1 / limit, per core: {limit_cpu / one[1]:.2f} (target 0.90)")
    print(f"build 1 / limit with Pillow, per core: {costs['limit, Pillow'][1] / one[1]:.2f}")
    print(f"build 2 / build 1: {one[0] / two[0]:.2f} (target 1.8)")
    for name, (clock, _) in costs.items():
        if name.endswith((", fast", ", pillow")):
            print(f"build 1 and 2 / {name}: {clock / one[0]:.2f}, {clock / two[0]:.2f}")


if __name__ == "__main__":
    main()
