"""The loader against the bare decode loop and against five others, on the same samples.

Run: `python bench/loader.py [--samples N] [--peers FOLDER] [--only READER ...]`. 1,500 dialogues of
1 to 4 images and 350 text tokens are drawn and written to a temporary folder. Each reader runs in a
process of its own; the environments of peers are made in FOLDER when they are missing, which takes
minutes and needs a package index. `pillow` rows decode with Pillow and normalise to float32 in the
workers, as users of these libraries do; `fast` rows give peers our decoder and uint8; `none` rows
decode nothing. CPU ms per sample counts all threads and worker processes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from loader_data import written_data
from peer_environments import PACKAGES, python_of

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from toy import toy_tokenizer

HERE = Path(__file__).parent
PEERS = ("webdataset", "mosaicml", "litdata", "energon")
IMAGES_PER_SAMPLE = 2.5

Rates = dict[tuple[str, int, str], float]
"""Samples per second by reader, workers and decoder."""


def rows(only: list[str]) -> list[tuple[str, int, str]]:
    """Return what is measured, in order: reader, workers, decoder."""
    listed = [("limit", n, "fast") for n in (1, 2)]
    listed += [("ours", n, decode) for decode in ("fast", "pillow", "none") for n in (1, 2)]
    listed += [(p, n, d) for p in PEERS for d in ("pillow", "fast", "none") for n in (1, 2)]
    listed += [("on-the-fly", n, "pillow") for n in (1, 2)]
    return [row for row in listed if not only or row[0] in only]


def measured(row: tuple[str, int, str], *, data: Path, peers: Path) -> float:
    """Run one reader, print its line, and return its samples per second; 0 if it fails."""
    reader, workers, decode = row
    command = [python_of(reader, folder=peers), str(HERE / "loader_readers.py")]
    command += [reader, str(data), str(workers), decode]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    unit = "threads" if reader in ("ours", "limit") else "workers"
    what = f"{reader}, {workers} {unit}, {decode}"
    if done.returncode:
        print(f"{what:<34} failed: {done.stderr.strip().splitlines()[-1]}", flush=True)
        return 0.0
    found = json.loads(done.stdout.strip().splitlines()[-1])
    print(
        f"{what:<34} {found['rate']:7.0f} samples/s {found['cpu_ms']:7.3f} CPU ms/sample",
        flush=True,
    )
    return float(found["rate"])


def print_ratios(rates: Rates) -> None:
    """Print our rates over those of the limit and of the best peers, with what is aimed at."""

    def ratio(what: str, ours: float, other: float, target: str) -> None:
        if ours and other:
            print(f"{what}: {ours / other:.2f} (target {target})")

    def best(workers: int, decode: str) -> float:
        return max((rates.get((peer, workers, decode), 0.0) for peer in PEERS), default=0.0)

    fast = {n: rates.get(("ours", n, "fast"), 0.0) for n in (1, 2)}
    limit = rates.get(("limit", 1, "fast"), 0.0)
    ratio("ours / decode loop, one decode thread", fast[1], limit, "0.95")
    ratio("two decode threads / one", fast[2], fast[1], "1.8")
    ratio("ours / best peer as its users run it, 2", fast[2], best(2, "pillow"), "3")
    ratio("ours / best peer with our decoder, 2", fast[2], best(2, "fast"), "1.5")
    ratio("same, with 1", fast[1], best(1, "fast"), "1")
    floats = rates.get(("ours", 2, "pillow"), 0.0)
    ratio("ours made float32 by the consumer / best peer, 2", floats, best(2, "pillow"), "1")
    ratio("without decoding, 2", rates.get(("ours", 2, "none"), 0.0), best(2, "none"), "1")
    published = rates.get(("on-the-fly", 1, "pillow"), 0.0)
    ratio("ours / published pipeline, images per core", fast[1], published, "15")


def main() -> None:
    """Print one line per reader, then the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1_500)
    parser.add_argument("--peers", type=Path, default=Path("build/bench-peers"))
    parser.add_argument("--only", nargs="*", default=[])
    wanted = parser.parse_args()
    chosen = rows(wanted.only)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        tokenizer = toy_tokenizer(data / "tokenizer")
        written_data(data, num_samples=wanted.samples, tokenizer=tokenizer)
        for peer in sorted(PACKAGES.keys() & {reader for reader, _, _ in chosen}):
            python = python_of(peer, folder=wanted.peers)
            subprocess.run([python, str(HERE / "peer_sets.py"), peer, folder], check=True)
        rates = {row: measured(row, data=data, peers=wanted.peers) for row in chosen}
    print_ratios(rates)


if __name__ == "__main__":
    main()
