"""The loader against the bare decode loop and against webdataset, on the same samples.

Run: `python bench/loader.py [SAMPLES]` (1,500 by default). Dialogues of 1 to 4 JPEG images of 224
pixels and 350 text tokens, drawn and written to a temporary folder. Every row delivers uint8 pixels
of 224 x 224 and padded or packed ids. CPU ms per sample counts all threads of the process, but not
worker processes; it holds on a busy machine, samples per second do not.
"""

from __future__ import annotations

import io
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from PIL import Image
from vchat.shards.codec import RecordOrigin, Sample, StoredImage, StoredRound
from vchat.shards.decode import decoded
from vchat.shards.loader import Loader
from vchat.shards.manifest import ShardSet, finished_shard, open_shards, publish
from vchat.shards.plan_arguments import PlanArguments
from vchat.shards.template import VisualChatTemplate
from vchat.shards.tokens import TextTokenizer
from vchat.shards.writer import write_shard

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from toy import toy_tokenizer

SIDE = 224
TEXT_TOKENS = 350
SHARDS = 6
ROWS_PER_MICRO_BATCH = 4
SAMPLES_PER_BATCH = 8


def pictures(rng: np.random.Generator, *, count: int) -> list[bytes]:
    """Draw smooth pictures with some noise, as JPEG of about 15 kB."""
    y, x = np.mgrid[:SIDE, :SIDE]
    encoded = []
    for number in range(count):
        smooth = np.stack([x, y, (x + y + 9 * number) % SIDE], axis=-1)
        noisy = (smooth + rng.integers(-10, 10, smooth.shape)).clip(0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(noisy).save(file, "JPEG", quality=90)
        encoded.append(file.getvalue())
    return encoded


def drawn_samples(num_samples: int, *, image_id: int) -> Iterator[Sample]:
    """Yield dialogues whose images are taken from 100 pictures."""
    rng = np.random.default_rng(0)
    drawn = pictures(rng, count=100)
    for number in range(num_samples):
        num_images = int(rng.integers(1, 5))
        key = f"bench/{number}"
        ids = np.concatenate([np.full(num_images, image_id), rng.integers(3, 250, TEXT_TOKENS)])
        yield Sample(
            key=key,
            source="bench",
            split="train",
            records=(
                RecordOrigin(
                    key=key,
                    file="none",
                    record_id=str(number),
                    licence="none",
                    first_round=0,
                    num_rounds=1,
                ),
            ),
            rounds=(StoredRound(images=tuple(range(num_images)), question="q", answer="a"),),
            images=tuple(
                StoredImage(
                    key=f"{key}:{k}",
                    data=drawn[int(rng.integers(len(drawn)))],
                    extension="jpg",
                    size=(SIDE, SIDE),
                    original_size=(SIDE, SIDE),
                )
                for k in range(num_images)
            ),
            ids=ids.astype(np.int32),
            supervised=np.arange(len(ids)) > 300,
        )


def written_set(folder: Path, *, num_samples: int) -> ShardSet:
    """Write the samples as a published shard set."""
    tokenizer = TextTokenizer.load(toy_tokenizer(folder / "tokenizer"))
    samples = drawn_samples(num_samples, image_id=tokenizer.image_id)
    shards = []
    for number in range(SHARDS):
        path = folder / "set" / f"train-{number:06d}.tar"
        path.parent.mkdir(exist_ok=True)
        part = itertools.islice(samples, num_samples // SHARDS)
        rows = write_shard(path, part, first_number=number * (num_samples // SHARDS))
        shards.append(finished_shard(path, split="train", rows=rows))
    template = VisualChatTemplate()
    given = {"template": {"name": template.name, "system": template.system}, "licences": {}}
    publish(folder / "set", manifest_without_shards=given, shards=shards, tokenizer=tokenizer)
    return open_shards(folder / "set")


def measured(what: str, consume: Callable[[], int]) -> float:
    """Print and return the samples per second of a function that returns how many it consumed."""
    wall, cpu = time.perf_counter(), time.process_time()
    num_samples = consume()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    rate = num_samples / wall
    print(f"{what:<44} {rate:8.0f} samples/s {1e3 * cpu / num_samples:7.3f} CPU ms/sample")
    return rate


def bare_loop(shard_set: ShardSet, *, threads: int) -> Callable[[], int]:
    """The limit: decode from memory, keep nothing."""
    index = shard_set.index("train").to_pylist()
    stored = [
        [data for name, data in shard_set.read_members(row).items() if name.endswith("jpg")]
        for row in index
    ]

    def decode_all(samples: list[list[bytes]]) -> None:
        for images in samples:
            for data in images:
                decoded(data, shorter_side=SIDE, crop=SIDE)

    def consume() -> int:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(decode_all, [stored[start::threads] for start in range(threads)]))
        return len(stored)

    return consume


def ours(shard_set: ShardSet, *, threads: int) -> Callable[[], int]:
    """One epoch of packed batches."""
    arguments = PlanArguments(
        split="train",
        seed=1,
        epoch=0,
        tokens_per_row=4096,
        images_per_row=16,
        positions_per_image=257,
        shuffle_window_shards=SHARDS,
    )
    rows_per_step = ROWS_PER_MICRO_BATCH
    loader = Loader(
        shard_set,
        arguments,
        rows_per_step=rows_per_step,
        rows_per_micro_batch=ROWS_PER_MICRO_BATCH,
        image_size=SIDE,
        threads=threads,
    )
    num_batches = loader.plan(0).num_steps(rows_per_step)

    def consume() -> int:
        batches = itertools.islice(loader, num_batches)
        return sum(len(row) for batch in batches for row in batch.keys)

    return consume


def by_pillow(data: bytes) -> np.ndarray:
    """Decode as most users of webdataset do; the images have the right size already."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1)


def by_ours(data: bytes) -> np.ndarray:
    """Decode as our loader does."""
    return decoded(data, shorter_side=SIDE, crop=SIDE)


class ToTensors:
    """One webdataset dictionary to ids and pixels; a class, so that workers can be sent it."""

    def __init__(self, decode: Callable[[bytes], np.ndarray]):
        self.decode = decode

    def __call__(self, sample: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        images = sorted(name for name in sample if name.endswith(".jpg"))
        pixels = np.stack([self.decode(sample[name]) for name in images])
        return np.load(io.BytesIO(sample["tokens.npy"])), pixels


def padded(samples: list[tuple[np.ndarray, np.ndarray]]) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Collate to the longest of the batch."""
    longest = max(len(ids) for ids, _ in samples)
    rows = np.zeros((len(samples), longest), np.int64)
    for row, (ids, _) in zip(rows, samples, strict=True):
        row[: len(ids)] = ids
    pixels = np.concatenate([images for _, images in samples])
    return torch.from_numpy(rows), torch.from_numpy(pixels), len(samples)


def peer(
    shard_set: ShardSet, *, decode: Callable[[bytes], np.ndarray], workers: int
) -> Callable[[], int]:
    """webdataset with a shuffle buffer, in batches."""
    names = [str(shard_set.folder / shard["name"]) for shard in shard_set.manifest["shards"]]
    dataset = (
        webdataset.WebDataset(names, shardshuffle=SHARDS)
        .shuffle(500)
        .map(ToTensors(decode))
        .batched(SAMPLES_PER_BATCH, collation_fn=padded)
    )
    batches = webdataset.WebLoader(dataset, batch_size=None, num_workers=workers)
    return lambda: sum(num_samples for _, _, num_samples in batches)


def main() -> None:
    """Print one row per reader, then our ratios."""
    torch.set_num_threads(1)
    num_samples = int(sys.argv[1]) if len(sys.argv) > 1 else 1_500
    with tempfile.TemporaryDirectory() as folder:
        shard_set = written_set(Path(folder), num_samples=num_samples)
        limits = [
            measured(f"decode loop, {n} threads", bare_loop(shard_set, threads=n)) for n in (1, 2)
        ]
        rates = [measured(f"ours, {n} threads", ours(shard_set, threads=n)) for n in (1, 2)]
        peers = [
            measured(
                f"webdataset, {name}, {workers} workers",
                peer(shard_set, decode=decode, workers=workers),
            )
            for name, decode in (("Pillow", by_pillow), ("our decode", by_ours))
            for workers in (0, 2)
        ]
    for n, limit, rate in zip((1, 2), limits, rates, strict=True):
        print(f"ours / decode loop, {n} threads: {rate / limit:.2f}")
    print(f"ours, 2 threads / best webdataset as its users run it: {rates[1] / max(peers[:2]):.2f}")
    print(f"ours, 2 threads / best webdataset with our decode: {rates[1] / max(peers[2:]):.2f}")


if __name__ == "__main__":
    main()
