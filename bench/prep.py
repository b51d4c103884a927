"""A build against the bare loop that re-encodes the same photographs, and against three peers.

Run: `python bench/prep.py [--photos N] [--peers FOLDER]`. LLaVA-like data: a natural photograph of
640 by 480 pixels, about 77 kB, with one question and an answer of 340 characters each, stored with
a shorter side of 224 pixels. The environments of peers are made in FOLDER when they are missing,
which takes minutes and needs a package index. All forms of a turn run one after the other; medians
are printed. With 2,000 photographs, the default, it takes 7 to 8 minutes. CPU seconds hold on a
busy machine, seconds of the clock do not; those of processes that the fork server starts are not
known.

    limit           read, decode, resize, encode with the libraries of the build; nothing is kept
    limit, Pillow   the same with Pillow alone: what the libraries are worth
    limit, tokens   the limit, and each sample's text tokenized: no build can do without
    limit, 2        the same loop in two processes, half of the photographs each
    build 1         convert, plan, encode, tokens, tar, checksums, report; with one worker
    build 2         with two workers; their fork server is there from a build before
    command 1, 2    `vchat-prep build` in a process of its own: with imports, and the fork server
    PEER            a script of its users (`prep_peers.py`): re-encode, tokenize, write; with the
                    libraries of the build (`fast`), and with Pillow as its documentation does

The build decodes with simplejpeg, resizes with torch and encodes with simplejpeg; the two rows of
the limit say what that is worth. Decoding is equal to Pillow's to the last bit. Torch's bicubic
filter for bytes is within one grey level of Pillow's and works in integers: equal bytes with and
without AVX2. Decoding at half size (scaled DCT) would be less work, but is 51 grey levels off.

With one worker a build is at two thirds of the limit per core. Nearly half of what is missing is
the tokenizer, which `limit, tokens` has too; the rest checks every picture's place and header
before the plan, looks up, describes and counts each record, sums members and shards, syncs them to
disk. A peer's script that is given our libraries does less of that and beats one worker, not two;
with Pillow, as it comes, it beats neither.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import simplejpeg
from peer_environments import python_of
from prep_peers import CODECS, QUALITY, samples

from vchat.base.processes import process_pool
from vchat.prep.convert.images import ImagePolicy, encode_for_shard
from vchat.prep.convert.recipe import Recipe, SourceChoice
from vchat.prep.tasks.local_engine import PRELOAD
from vchat_testing.toy import toy_tokenizer

SCRIPT = Path(__file__).with_name("prep_peers.py")
PEERS = ("webdataset", "mosaicml", "litdata")
REPETITIONS = 3
SHARD_SIZE = "7MB"
"""Eight shards of the photographs that are the default: four for each of two workers."""

ANSWER = "The picture shows a wide landscape in soft light, with many small things in it. " * 4

Cost = tuple[float, float]
"""Seconds of the clock and of CPU."""

Form = Callable[[Path], Cost]
"""Runs once, with a folder that it may make."""


def main() -> None:
    """Print samples per second of all forms, and their ratios to the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=2_000)
    parser.add_argument("--peers", type=Path, default=Path("build/bench-peers"))
    wanted = parser.parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photographer = python_of("photographs", folder=wanted.peers)
        write_data(folder, num_photos=wanted.photos, python=photographer)
        check_same_libraries(folder)
        forms = own_forms(folder) | peer_forms(folder, peers=wanted.peers)
        report(measure_forms(forms, folder), num_photos=wanted.photos)


def own_forms(folder: Path) -> dict[str, Form]:
    """Return the limits and the builds."""
    forms: dict[str, Form] = {
        "limit": lambda _: time_run(partial(bare_loop, folder, "fast")),
        "limit, Pillow": lambda _: time_run(partial(bare_loop, folder, "pillow")),
        "limit, tokens": lambda _: time_run(partial(loop_with_tokens, folder)),
        "limit, 2": lambda _: time_run(partial(two_loops, folder)),
    }
    for workers in (1, 2):
        run = partial(one_build, folder, workers=workers)
        forms[f"build {workers}"] = lambda out, run=run: time_run(partial(run, out))
    for workers in (1, 2):
        run = partial(one_command, folder, workers=workers)
        forms[f"command {workers}"] = lambda out, run=run: time_run(partial(run, out))
    return forms


def peer_forms(folder: Path, *, peers: Path) -> dict[str, Form]:
    """Return the peers, with either codec; makes their environments."""
    return {
        f"{peer}, {codec}": partial(run_peer, python_of(peer, folder=peers), peer, codec, folder)
        for peer in PEERS
        for codec in ("fast", "pillow")
    }


def write_data(folder: Path, *, num_photos: int, python: str) -> None:
    """Write photographs, LLaVA's two annotation files and a tokenizer."""
    photos = folder / "data/coco/train2017"
    photos.mkdir(parents=True)
    subprocess.run([python, SCRIPT, "photos", photos, str(num_photos)], check=True)
    rows = []
    for number in range(num_photos):
        question = f"<image>\nWhat do you see in photograph {number}?"
        turns = (("human", question), ("gpt", f"{ANSWER}{number}"))
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
    stored = encode_for_shard(data, ImagePolicy(quality=QUALITY), key="", name="")
    assert stored.data == CODECS["fast"](data)


def bare_loop(folder: Path, codec: str, *, first: int = 0, step: int = 1) -> None:
    """Read, decode, resize and encode every photograph, or one of every `step`."""
    for path in sorted((folder / "data/coco/train2017").iterdir())[first::step]:
        CODECS[codec](path.read_bytes())


def loop_with_tokens(folder: Path) -> None:
    """Do what the bare loop does, and tokenize every question and answer at one go."""
    for _ in samples(folder, CODECS["fast"]):
        pass


def two_loops(folder: Path) -> None:
    """Share the bare loop between two workers as a build has them."""
    with process_pool(2, preload=PRELOAD) as pool:
        for half in [pool.submit(bare_loop, folder, "fast", first=n, step=2) for n in (0, 1)]:
            half.result()


def one_build(folder: Path, out: Path, *, workers: int) -> None:
    """Make a whole shard set in this process."""
    from vchat.prep.pipeline.build import (
        build_shards,
    )  # not at the top: every worker imports this file

    recipe = Recipe(
        source=(SourceChoice(name="llava"),),
        data=str(folder / "data"),
        tokenizer=str(folder / "tokenizer"),
        out=str(out),
        eval_fraction=0.0,
        shard_size=SHARD_SIZE,
        workers=workers,
    )
    with contextlib.redirect_stderr(io.StringIO()):
        build_shards(recipe)


def one_command(folder: Path, out: Path, *, workers: int) -> None:
    """Make a whole shard set as a user does."""
    command = [sys.executable, "-m", "vchat.prep.commands.main", "build", "--datasets", "llava"]
    command += ["--data", str(folder / "data"), "--tokenizer", str(folder / "tokenizer")]
    command += ["--out", str(out), "--shard-size", SHARD_SIZE, "--eval-fraction", "0"]
    subprocess.run([*command, "--workers", str(workers)], check=True, capture_output=True)


def time_run(run: Callable[[], None]) -> Cost:
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
    command = [python, SCRIPT, peer, codec, folder, out]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    clock, cpu = done.stdout.splitlines()[-1].split()
    return float(clock), float(cpu)


def measure_forms(forms: dict[str, Form], folder: Path) -> dict[str, Cost]:
    """Run the forms in turns; return the medians."""
    costs: dict[str, list[Cost]] = {name: [] for name in forms}
    for name in ("build 1", "build 2"):
        forms[name](folder / "warm" / name)
    for _ in range(REPETITIONS):
        for name, run in forms.items():
            with tempfile.TemporaryDirectory(dir=folder) as out:
                costs[name].append(run(Path(out) / "set"))
    return {
        name: (statistics.median(c for c, _ in found), statistics.median(c for _, c in found))
        for name, found in costs.items()
    }


def report(costs: dict[str, Cost], *, num_photos: int) -> None:
    """Print one line per form; a sample has one image, so these are images per second as well."""
    limit_clock, limit_cpu = costs["limit"]
    for name, (clock, cpu) in costs.items():
        line = (
            f"{name:20s} {num_photos / clock:7.1f} samples/s ({limit_clock / clock:.2f} of limit)"
        )
        if not name.endswith(" 2"):
            line += f"  {num_photos / cpu:7.1f} per CPU s ({limit_cpu / cpu:.2f} of limit)"
        print(line)
    one, two = costs["build 1"], costs["build 2"]
    print(f"build 1 / limit, per core: {limit_cpu / one[1]:.2f} (target 0.90)")
    print(f"build 1 / limit with tokens, per core: {costs['limit, tokens'][1] / one[1]:.2f}")
    print(f"build 1 / limit with Pillow, per core: {costs['limit, Pillow'][1] / one[1]:.2f}")
    print(f"limit, 2 / limit: {limit_clock / costs['limit, 2'][0]:.2f}")
    print(f"build 2 / build 1: {one[0] / two[0]:.2f} (target 1.8)")
    print(f"command 2 / command 1: {costs['command 1'][0] / costs['command 2'][0]:.2f}")
    for name, (clock, _) in costs.items():
        if name.endswith((", fast", ", pillow")):
            print(f"build 1 and 2 / {name}: {clock / one[0]:.2f}, {clock / two[0]:.2f} (target 1)")


if __name__ == "__main__":
    main()
