"""The loader from a real S3 server on loopback against the loader from the local disk.

Run: `python bench/storage.py [SAMPLES]` (3,000 by default), the samples of `bench/loader.py`. In
each of three rounds an epoch is read from the folder, from the bucket by range, through a cache
that is empty, and through one that is full; the ratios are of the medians. The server works on the
same cores, so what it needs is taken from us; it is printed beside our own CPU time. There is no
latency on loopback: by range, a far server is slower by its round trips, whole shards are not.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from loader_data import our_loader, write_data

from vchat.shards.format.open_shards import open_shards
from vchat.shards.format.shard_set import ShardSet
from vchat.shards.storage.config import StorageConfig
from vchat_testing.s3_server import new_bucket, serve_s3
from vchat_testing.toy import toy_tokenizer

ROUNDS = 3


def server_cpu_s() -> float:
    """CPU seconds of the processes that this one has started: of the S3 server."""
    used = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                used += int(fields[11]) + int(fields[12])
    return used / os.sysconf("SC_CLK_TCK")


def rate(shard_set: ShardSet, what: str, *, threads: int) -> float:
    """Read one epoch, print what it cost, and return the samples per second."""
    loader = our_loader(shard_set, threads=threads)
    num_batches = loader.plan(0).num_steps(loader.rows_per_step)
    before = loader.metrics()
    wall, cpu, server = time.perf_counter(), time.process_time(), server_cpu_s()
    batches = itertools.islice(loader, num_batches)
    num_samples = sum(len(row) for batch in batches for row in batch.keys)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    server = server_cpu_s() - server
    cost = {name: total - before[name] for name, total in loader.metrics().items()}
    print(
        f"{what:<28} {num_samples / wall:8.0f} samples/s"
        f" {1e3 * cpu / num_samples:7.3f} CPU ms each, {1e3 * server / num_samples:.3f} the server"
        f" {cost['requests']:6.0f} requests {cost['network_bytes'] / 1e6:6.0f} MB over the network"
    )
    return num_samples / wall


def one_round(folder: ShardSet, url: str, cache: Path, *, threads: int) -> list[float]:
    """Return the rates from the folder, by range, through an empty and through a full cache."""
    cached = StorageConfig(cache=cache)
    opened = [
        ("local folder", folder),
        ("S3, by range", open_shards(url)),
        ("S3, empty cache", open_shards(url, storage=cached)),
        ("S3, full cache", open_shards(url, storage=cached)),
    ]
    return [rate(shards, f"{what}, {threads} threads", threads=threads) for what, shards in opened]


def main() -> None:
    """Print a row per reading, then the ratios to the local folder."""
    torch.set_num_threads(1)
    num_samples = int(sys.argv[1]) if len(sys.argv) > 1 else 3_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = toy_tokenizer(folder / "tokenizer")
        shard_set = write_data(folder, num_samples=num_samples, tokenizer=tokenizer)
        (folder / "s3").mkdir()
        with serve_s3(folder / "s3") as endpoint:
            bucket = new_bucket(endpoint)
            os.environ |= bucket.environment
            bucket.put_folder(shard_set.folder, "set")
            for threads in (1, 2):
                rates = [
                    one_round(
                        shard_set,
                        f"{bucket.url}/set",
                        folder / f"cache-{threads}-{number}",
                        threads=threads,
                    )
                    for number in range(ROUNDS)
                ]
                local, *others = (statistics.median(column) for column in zip(*rates, strict=True))
                for what, other in zip(
                    ("by range", "empty cache", "full cache"), others, strict=True
                ):
                    print(f"S3 {what} / local, {threads} threads: {other / local:.2f}")


if __name__ == "__main__":
    main()
