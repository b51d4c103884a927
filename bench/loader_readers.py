"""One reader of `bench/loader.py` in a process of its own: prints its samples/s as one JSON line.

Run by that benchmark: `python loader_readers.py READER DATA WORKERS DECODE [WHERE]`, in the
reader's own environment. Every reader delivers uint8 (or, as `pillow`, normalised float32) pixels
of 224 x 224 and token ids. The clock starts at the first batch; epochs end with what was read
ahead, which favours peers, while ours and energon's, which have no end, are measured over as many
samples.
"""

from __future__ import annotations

import io
import json
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

SIDE = 224
SAMPLES_PER_BATCH = 8
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)[:, None, None]
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)[:, None, None]

Decode = Callable[[bytes], np.ndarray]
Batches = Iterable[int]
"""How many samples each batch has."""


def by_pillow(data: bytes) -> np.ndarray:
    """Decode, crop and normalise to float32, as users of these libraries do."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
    cropped = np.asarray(image.crop((left, top, left + SIDE, top + SIDE)))
    return (cropped.transpose(2, 0, 1).astype(np.float32) / np.float32(255) - MEAN) / STD


def by_pillow_to_bytes(data: bytes) -> np.ndarray:
    """Decode and crop, without normalising."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
    cropped = image.crop((left, top, left + SIDE, top + SIDE))
    return np.asarray(cropped).transpose(2, 0, 1)


def by_ours(data: bytes) -> np.ndarray:
    """Decode as our loader does."""
    from vchat.shards.decode import decoded

    return decoded(data, shorter_side=SIDE, crop=SIDE)


def not_at_all(data: bytes) -> np.ndarray:
    """Return pixels of the right shape, all zero."""
    return np.zeros((3, SIDE, SIDE), np.uint8)


def decoder(name: str) -> Decode:
    """Return one of the four ways to pixels."""
    return {
        "pillow": by_pillow,
        "pillow-uint8": by_pillow_to_bytes,
        "fast": by_ours,
        "none": not_at_all,
    }[name]


def padded(samples: list[tuple[np.ndarray, np.ndarray]]) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Collate to the longest of the batch."""
    longest = max(len(ids) for ids, _ in samples)
    rows = np.zeros((len(samples), longest), np.int64)
    for row, (ids, _) in zip(rows, samples, strict=True):
        row[: len(ids)] = ids
    pixels = np.concatenate([images for _, images in samples])
    return torch.from_numpy(rows), torch.from_numpy(pixels), len(samples)


def to_arrays(packed: dict[str, Any], decode: Decode) -> tuple[np.ndarray, np.ndarray]:
    """Turn ids and images end to end, as the peers store them, into ids and pixels."""
    ends = np.cumsum(np.frombuffer(packed["sizes"], np.int32))
    starts = np.concatenate([[0], ends[:-1]])
    images = [packed["images"][a:b] for a, b in zip(starts, ends, strict=True)]
    return np.frombuffer(packed["ids"], np.int32), np.stack([decode(data) for data in images])


def plain_loader(dataset: Any, workers: int) -> Batches:
    """Batches of 8 by torch's DataLoader."""
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=SAMPLES_PER_BATCH, num_workers=workers, collate_fn=padded
    )
    return (size for _, _, size in loader)


def webdataset(data: Path, workers: int, decode: Decode, where: str) -> Batches:
    """Our own shards through webdataset, with a shuffle buffer."""
    import webdataset as wds

    def arrays(sample: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        images = [sample[name] for name in sorted(sample) if name.endswith(".jpg")]
        return np.load(io.BytesIO(sample["tokens.npy"])), np.stack([decode(one) for one in images])

    stored = [str(path) for path in sorted((data / "set").glob("*.tar"))]
    names = json.loads(where) if where else stored
    dataset = (
        wds.WebDataset(names, shardshuffle=len(names))
        .shuffle(500)
        .map(arrays)
        .batched(SAMPLES_PER_BATCH, collation_fn=padded)
    )
    return (size for _, _, size in wds.WebLoader(dataset, batch_size=None, num_workers=workers))


def mosaicml(data: Path, workers: int, decode: Decode, where: str) -> Batches:
    """MosaicML Streaming."""
    import streaming

    class Dialogues(streaming.StreamingDataset):
        def __getitem__(self, at: int) -> tuple[np.ndarray, np.ndarray]:
            return to_arrays(super().__getitem__(at), decode)

    streaming.base.util.clean_stale_shared_memory()
    local = str(data / "mosaicml") if not where else str(data / "mosaicml-cache")
    given = {"local": local, "shuffle": True, "batch_size": SAMPLES_PER_BATCH}
    return plain_loader(Dialogues(**given, **({"remote": where} if where else {})), workers)


def litdata(data: Path, workers: int, decode: Decode, where: str) -> Batches:
    """litdata."""
    from litdata import StreamingDataLoader, StreamingDataset

    class Dialogues(StreamingDataset):
        def __getitem__(self, index: Any) -> tuple[np.ndarray, np.ndarray]:
            return to_arrays(super().__getitem__(index), decode)

    dataset = Dialogues(where or str(data / "litdata"), shuffle=True)
    loader = StreamingDataLoader(
        dataset, batch_size=SAMPLES_PER_BATCH, num_workers=workers, collate_fn=padded
    )
    return (size for _, _, size in loader)


def energon(data: Path, workers: int, decode: Decode, where: str) -> Batches:
    """Megatron-Energon over our own shards, as crude samples with a cooker."""
    from energon_task import loader_of

    return loader_of(data / "energon", workers=workers, decode=decode, collate=padded)


class OnTheFly(torch.utils.data.Dataset):
    """As the published code: tokenize and process 640 x 480 photographs at every access."""

    def __init__(self, data: Path):
        from transformers import CLIPImageProcessor, PreTrainedTokenizerFast

        self.rows = json.loads((data / "dialogues.json").read_text())
        self.photos = data / "photos"
        self.process = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIDE)
        self.tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(data / "tokenizer" / "tokenizer.json")
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> tuple[np.ndarray, np.ndarray]:
        row = self.rows[at]
        images = [Image.open(self.photos / f"{n}.jpg").convert("RGB") for n in row["photos"]]
        pixels = [self.process(image, return_tensors="np")["pixel_values"] for image in images]
        return np.array(self.tokenizer(row["text"])["input_ids"]), np.concatenate(pixels)


def on_the_fly(data: Path, workers: int, decode: Decode, where: str) -> Batches:
    """The published pipeline."""
    return plain_loader(OnTheFly(data), workers)


def ours(data: Path, workers: int, name: str, where: str) -> Iterator[int]:
    """Our loader with as many decode threads as peers have workers, endless."""
    from vchat.shards import sample_loader
    from vchat.shards.loader import Loader
    from vchat.shards.manifest import open_shards
    from vchat.shards.plan_arguments import PlanArguments

    if name == "none":
        sample_loader.decode_into = lambda pixels, data, *, shorter_side: pixels.fill(0)
    arguments = PlanArguments(
        split="train",
        seed=1,
        epoch=0,
        tokens_per_row=4096,
        images_per_row=16,
        positions_per_image=257,
        shuffle_window_shards=8,
    )
    loader = Loader(
        open_shards(where or data / "set"),
        arguments,
        rows_per_step=4,
        rows_per_micro_batch=4,
        image_size=SIDE,
        threads=workers,
    )
    for batch in loader:
        if name == "pillow":  # float32 is made by the consumer, one thread
            pixels = batch.pixels.float().mul_(1 / 255)
            pixels.sub_(torch.from_numpy(MEAN)).div_(torch.from_numpy(STD))
        yield sum(len(row) for row in batch.keys)


def limit(data: Path, workers: int, name: str, where: str) -> Iterator[int]:
    """No loader: encoded images in memory, each thread decodes into one place, nothing is kept."""
    from concurrent.futures import ThreadPoolExecutor

    from vchat.shards.decode import decode_into
    from vchat.shards.manifest import open_shards

    shards = open_shards(data / "set")
    stored = [
        [body for member, body in shards.read_members(row).items() if member.endswith("jpg")]
        for row in shards.index("train").to_pylist()
    ]

    def decode_all(samples: list[list[bytes]]) -> int:
        place = np.empty((SIDE, SIDE, 3), np.uint8)
        for images in samples:
            for body in images:
                decode_into(place, body, shorter_side=SIDE)
        return len(samples)

    with ThreadPoolExecutor(workers) as pool:
        yield 0
        yield sum(pool.map(decode_all, [stored[first::workers] for first in range(workers)]))


READERS: dict[str, Callable[..., Batches]] = {
    "webdataset": webdataset,
    "mosaicml": mosaicml,
    "litdata": litdata,
    "energon": energon,
    "on-the-fly": on_the_fly,
}


def cpu_s() -> float:
    """CPU seconds of this process and of those it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def measured(batches: Batches, *, most: int) -> dict[str, float]:
    """Consume batches up to a number of samples after the first batch; return rates."""
    stream = iter(batches)
    next(stream)
    began, cpu, samples = time.perf_counter(), cpu_s(), 0
    for size in stream:
        samples += size
        if samples >= most:
            break
    wall = time.perf_counter() - began
    del stream, batches
    return {"samples": samples, "rate": samples / wall, "cpu_ms": 1e3 * (cpu_s() - cpu) / samples}


def main() -> None:
    """Measure one reader."""
    reader, data, workers, decode, *where = sys.argv[1:]
    place = where[0] if where else ""
    torch.set_num_threads(1)
    num_samples = len(json.loads((Path(data) / "dialogues.json").read_text()))
    if reader in ("ours", "limit"):
        own = {"ours": ours, "limit": limit}[reader]
        batches: Batches = own(Path(data), int(workers), decode, place)
        if reader == "ours":
            for _ in range(4):  # its threads have started, its read-ahead is full
                next(batches)
    else:
        batches = READERS[reader](Path(data), int(workers), decoder(decode), place)
    print(
        json.dumps(measured(batches, most=num_samples if reader in ("ours", "energon") else 10**9))
    )


if __name__ == "__main__":
    main()
