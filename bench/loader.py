"""The loader against the bare decode loop and against five others, on the same samples.

Run: `python bench/loader.py [--part core|local|s3] [--rounds N] [--data FOLDER] [--peers FOLDER]`.
1,500 dialogues of 1 to 4 images and 350 text tokens are drawn and written to DATA, a temporary
folder if not given. All rows of a part are measured in turn, N times; medians are printed. Each
reader runs in a process of its own, and its first samples are compared with what is stored. The
environments of peers are made in PEERS when they are missing, which takes minutes and needs a
package index.

    core    the decode loop, ours, and the published pipeline
    local   ours and the peers, from the local disk
    s3      the same from an S3 server on loopback, which works on the same cores; `local` beside it

`pillow` rows decode with Pillow and normalise to float32 in the workers, as users of these
libraries do; `fast` rows give peers our decoder and uint8; `none` rows decode nothing. CPU ms per
sample counts all threads and worker processes, not the server.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path

import obstore
from loader_data import write_data
from loader_readers import Place
from peer_environments import PACKAGES, python_of

from vchat_testing.s3_server import Bucket, new_bucket, serve_s3
from vchat_testing.toy import toy_tokenizer

HERE = Path(__file__).parent
PEERS = ("webdataset", "mosaicml", "litdata", "energon")
PEERS_ON_S3 = ("webdataset", "mosaicml", "litdata")
"""Energon reaches object storage only through a client of its own with a configuration file."""

PUBLISHED = ("on-the-fly", "on-the-fly, torchvision")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One reader in one setting."""

    reader: str
    workers: int
    """Decode threads of ours and of the limit, worker processes of others."""

    decode: str = "fast"
    where: str = "local"
    """`local`, `s3`, or `s3 cache` for ours through its cache on the local disk."""

    def __str__(self) -> str:
        unit = "threads" if self.reader in ("ours", "limit") else "workers"
        return f"{self.reader}, {self.workers} {unit}, {self.decode}, {self.where}"


@dataclass(kw_only=True)
class Measured:
    """What the repetitions of a row found."""

    rates: list[float] = field(default_factory=list)
    """Samples per second."""

    cpu_ms: list[float] = field(default_factory=list)
    """Per sample."""

    equal: str = ""
    """What the comparison with the stored samples found, or why the row failed."""

    def __str__(self) -> str:
        if not self.rates:
            return self.equal
        low, high = min(self.rates), max(self.rates)
        rate, cpu_ms = statistics.median(self.rates), statistics.median(self.cpu_ms)
        return f"{rate:7.0f} ({low:.0f}-{high:.0f}) samples/s {cpu_ms:7.3f} CPU ms  {self.equal}"


Table = dict[Row, Measured]


def rows_of(part: str) -> list[Row]:
    """Return the rows of a part, in the order in which they are measured."""
    both = (1, 2)
    if part == "core":
        rows = [Row(reader=reader, workers=n) for n in both for reader in ("limit", "ours")]
        rows += [Row(reader="ours", workers=n, decode="none") for n in both]
        return rows + [Row(reader=one, workers=1, decode="pillow") for one in PUBLISHED]
    if part == "local":
        decoders = ("fast", "pillow", "none")
        readers = ("ours", *PEERS)
        return [Row(reader=r, workers=n, decode=d) for d in decoders for n in both for r in readers]
    ours = [
        Row(reader="ours", workers=n, where=where)
        for n in both
        for where in ("local", "s3", "s3 cache")
    ]
    return ours + [Row(reader=r, workers=n, where="s3") for n in both for r in PEERS_ON_S3]


def measure(row: Row, found: Measured, *, data: Path, peers: Path, bucket: Bucket | None) -> None:
    """Run one reader once and add what it found."""
    with tempfile.TemporaryDirectory() as cache:
        place = Place()
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        if row.where != "local":
            assert bucket is not None
            environment |= bucket.environment | {"S3_ENDPOINT_URL": bucket.endpoint}
            uses_cache = row.reader != "ours" or "cache" in row.where
            place = Place(
                url=bucket.url, signed=sign_requests(bucket), cache=cache if uses_cache else ""
            )
        command = [python_of(row.reader, folder=peers), str(HERE / "loader_readers.py")]
        command += [row.reader, str(data), str(row.workers), row.decode, json.dumps(asdict(place))]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=180)
    if done.returncode:
        found.equal = f"failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
        return
    one = json.loads(done.stdout.strip().splitlines()[-1])
    found.rates.append(one["rate"])
    found.cpu_ms.append(one["cpu_ms"])
    if "levels" in one:
        found.equal = f"{one['checked']:.0f} samples equal within {one['levels']:.2f} levels"


def sign_requests(bucket: Bucket) -> tuple[str, ...]:
    """Return URLs by which a plain HTTP client may read our shards."""
    names = [name for name in bucket.names("set") if name.endswith(".tar")]
    urls = obstore.sign(bucket.store, "GET", names, timedelta(hours=1))
    return tuple(urls)


class Ratios:
    """Prints ratios of medians, each with what is aimed at; those that were not measured not."""

    def __init__(self, table: Table):
        self._table = table

    def rate(self, reader: str, workers: int, decode: str = "fast", where: str = "local") -> float:
        """Return the median samples per second, 0 if there is none."""
        row = Row(reader=reader, workers=workers, decode=decode, where=where)
        found = self._table.get(row, Measured())
        return statistics.median(found.rates) if found.rates else 0.0

    def cpu_ms(self, reader: str, workers: int, decode: str = "fast") -> float:
        """Return the median CPU ms per sample, 0 if there is none."""
        found = self._table.get(Row(reader=reader, workers=workers, decode=decode), Measured())
        return statistics.median(found.cpu_ms) if found.cpu_ms else 0.0

    def best(self, workers: int, decode: str, where: str = "local") -> float:
        """Return the rate of the fastest peer."""
        return max(self.rate(peer, workers, decode, where) for peer in PEERS)

    def say(self, what: str, one: float, other: float, target: str) -> None:
        """Print a ratio."""
        if one and other:
            print(f"{what}: {one / other:.2f} (target {target})")

    def print_all(self) -> None:
        """Print those of the rows that were measured."""
        for n in (1, 2):
            ours = self.rate("ours", n)
            self.say(f"ours / decode loop, {n} threads", ours, self.rate("limit", n), "0.95")
            if self.cpu_ms("limit", n):
                added = self.cpu_ms("ours", n) - self.cpu_ms("limit", n)
                print(f"CPU added to the decode loop, {n} threads: {added:.3f} ms (target 0.1)")
            self.say(f"ours / best peer with our decoder, {n}", ours, self.best(n, "fast"), "1.5")
            self.say(f"ours / best peer as used, {n}", ours, self.best(n, "pillow"), "3 for 2")
            floats = self.rate("ours", n, "pillow")
            self.say(
                f"ours made float32 by the consumer / same, {n}",
                floats,
                self.best(n, "pillow"),
                "1",
            )
            bare = self.rate("ours", n, "none")
            self.say(f"without decoding, ours / best peer, {n}", bare, self.best(n, "none"), "1")
            for where in ("s3", "s3 cache"):
                far = self.rate("ours", n, where=where)
                self.say(f"ours from {where} / local, {n} threads", far, ours, "0.9")
                self.say(
                    f"ours from {where} / best peer, {n}", far, self.best(n, "fast", "s3"), "1"
                )
        for reader in ("limit", "ours"):
            two, one = self.rate(reader, 2), self.rate(reader, 1)
            self.say(f"two decode threads / one, {reader}", two, one, "1.8")
        for reader in PUBLISHED:
            theirs = self.cpu_ms(reader, 1, "pillow")
            self.say(
                f"images per core second, ours / {reader}", theirs, self.cpu_ms("ours", 1), "15"
            )


@contextlib.contextmanager
def serve_data(data: Path) -> Iterator[Bucket]:
    """Run a server that has all sets of the data folder."""
    with tempfile.TemporaryDirectory() as folder, serve_s3(Path(folder)) as endpoint:
        bucket = new_bucket(endpoint)
        for name in ("set", "mosaicml", "litdata"):
            if (data / name).exists():
                bucket.put_folder(data / name, name)
        yield bucket


def prepare(data: Path, rows: list[Row], *, num_samples: int, peers: Path) -> None:
    """Write the samples for each reader of the rows, where they are not written."""
    if not (data / "set").exists():
        data.mkdir(parents=True, exist_ok=True)
        tokenizer = toy_tokenizer(data / "tokenizer")
        write_data(data, num_samples=num_samples, tokenizer=tokenizer)
    for peer in sorted(PACKAGES.keys() & {row.reader for row in rows}):
        python = python_of(peer, folder=peers)
        if not (data / peer).exists():
            subprocess.run([python, str(HERE / "peer_sets.py"), peer, str(data)], check=True)


def main() -> None:
    """Print one line per row, then the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=["core", "local", "s3"], default="core")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=1_500)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--peers", type=Path, default=Path("build/bench-peers"))
    wanted = parser.parse_args()
    rows = rows_of(wanted.part)
    with contextlib.ExitStack() as stack:
        data = wanted.data or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        prepare(data, rows, num_samples=wanted.samples, peers=wanted.peers)
        bucket = stack.enter_context(serve_data(data)) if wanted.part == "s3" else None
        table: Table = {row: Measured() for row in rows}
        for _ in range(wanted.rounds):
            for row, found in table.items():
                measure(row, found, data=data, peers=wanted.peers, bucket=bucket)
                print(".", end="", file=sys.stderr, flush=True)
    for row, found in table.items():
        print(f"{row!s:<44} {found}")
    Ratios(table).print_all()


if __name__ == "__main__":
    main()
