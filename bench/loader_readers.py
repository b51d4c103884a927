"""One reader of `bench/loader.py` in a process of its own: prints its samples/s as one JSON line.

Run by that benchmark: `python loader_readers.py READER DATA WORKERS DECODE PLACE`, in the reader's
own environment. Every reader delivers uint8 (or, as `pillow`, normalised float32) pixels of
224 x 224 and token ids; those delivered before the clock starts are compared with what is stored.
The clock starts at the first batch; epochs end with what was prefetched, which favours peers, while
ours and energon's, which have no end, are measured over as many samples.
"""

from __future__ import annotations

import io
import itertools
import json
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loader_checks import (
    MEAN,
    SIDE,
    STD,
    decode_image,
    difference_of_processed,
    image_id,
    largest_difference,
    of_ours,
    of_padded,
    split,
)
from PIL import Image

SAMPLES_PER_BATCH = 8
IMAGES_AT_ONCE = 16

Decode = Callable[[bytes], np.ndarray]
Batches = Iterable[Any]
"""Ours, or `(ids, pixels, number of samples)`."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a set lies if not in the data folder."""

    url: str = ""
    """Of the folder of sets in a bucket."""

    signed: tuple[str, ...] = ()
    """URLs of our shards over HTTP, with the right to read them."""

    cache: str = ""
    """An empty local folder; ours uses one only if told."""

    @classmethod
    def of(cls, text: str) -> Place:
        """Read it from JSON."""
        given = json.loads(text)
        return cls(**given | {"signed": tuple(given.get("signed", ()))})


def by_pillow(data: bytes) -> np.ndarray:
    """Decode, crop and normalise to float32, as users of these libraries do."""
    return (decode_image(data).astype(np.float32) / np.float32(255) - MEAN) / STD


def by_ours(data: bytes) -> np.ndarray:
    """Decode as our loader does."""
    from vchat.shards.pixels import decode

    return decode.decode_image(data, shorter_side=SIDE, crop=SIDE)


def not_at_all(data: bytes) -> np.ndarray:
    """Return pixels of the right shape, all zero."""
    return np.zeros((3, SIDE, SIDE), np.uint8)


def decoder(name: str) -> Decode:
    """Return one of the four ways to pixels."""
    return {
        "pillow": by_pillow,
        "pillow-uint8": decode_image,
        "fast": by_ours,
        "none": not_at_all,
    }[name]


def pad_batch(
    samples: list[tuple[np.ndarray, np.ndarray]],
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Collate to the longest of the batch."""
    longest = max(len(ids) for ids, _ in samples)
    rows = np.zeros((len(samples), longest), np.int64)
    for row, (ids, _) in zip(rows, samples, strict=True):
        row[: len(ids)] = ids
    pixels = np.concatenate([images for _, images in samples])
    return torch.from_numpy(rows), torch.from_numpy(pixels), len(samples)


def to_arrays(packed: dict[str, Any], decode: Decode) -> tuple[np.ndarray, np.ndarray]:
    """Turn ids and images end to end, as the peers store them, into ids and pixels."""
    return np.frombuffer(packed["ids"], np.int32), np.stack([decode(one) for one in split(packed)])


def plain_loader(dataset: Any, workers: int) -> Batches:
    """Batches of 8 by torch's DataLoader."""
    return torch.utils.data.DataLoader(
        dataset, batch_size=SAMPLES_PER_BATCH, num_workers=workers, collate_fn=pad_batch
    )


def webdataset(data: Path, workers: int, decode: Decode, place: Place) -> Batches:
    """Our own shards through webdataset, with a shuffle buffer."""
    import webdataset as wds

    def arrays(sample: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        images = [sample[name] for name in sorted(sample) if name.endswith(".jpg")]
        return np.load(io.BytesIO(sample["tokens.npy"])), np.stack([decode(one) for one in images])

    stored = [str(path) for path in sorted((data / "set").glob("*.tar"))]
    names = list(place.signed) or stored
    dataset = (
        wds.WebDataset(names, shardshuffle=len(names))
        .shuffle(500)
        .map(arrays)
        .batched(SAMPLES_PER_BATCH, collation_fn=pad_batch)
    )
    return wds.WebLoader(dataset, batch_size=None, num_workers=workers)


def mosaicml(data: Path, workers: int, decode: Decode, place: Place) -> Batches:
    """MosaicML Streaming."""
    import streaming

    class Dialogues(streaming.StreamingDataset):
        def __getitem__(self, at: int) -> tuple[np.ndarray, np.ndarray]:
            return to_arrays(super().__getitem__(at), decode)

    streaming.base.util.clean_stale_shared_memory()
    dataset = Dialogues(
        remote=f"{place.url}/mosaicml" if place.url else None,
        local=place.cache or str(data / "mosaicml"),
        shuffle=True,
        batch_size=SAMPLES_PER_BATCH,
    )
    return plain_loader(dataset, workers)


def litdata(data: Path, workers: int, decode: Decode, place: Place) -> Batches:
    """Litdata."""
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming import downloader

    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True  # its client refuses loopback otherwise

    class Dialogues(StreamingDataset):
        def __getitem__(self, index: Any) -> tuple[np.ndarray, np.ndarray]:
            return to_arrays(super().__getitem__(index), decode)

    dataset = Dialogues(
        f"{place.url}/litdata" if place.url else str(data / "litdata"),
        cache_dir=place.cache or None,
        shuffle=True,
    )
    return StreamingDataLoader(
        dataset, batch_size=SAMPLES_PER_BATCH, num_workers=workers, collate_fn=pad_batch
    )


def energon(data: Path, workers: int, decode: Decode, place: Place) -> Batches:
    """Megatron-Energon over our own shards, as crude samples with a cooker."""
    from energon_task import loader_of

    return loader_of(data / "energon", workers=workers, decode=decode, collate=pad_batch)


class OnTheFly(torch.utils.data.Dataset):
    """As the published code: tokenize and process 640 x 480 photographs at every access."""

    def __init__(self, data: Path, *, processor: Any):
        from transformers import PreTrainedTokenizerFast

        self.rows = json.loads((data / "dialogues.json").read_text())
        self.photos = data / "photos"
        self.process = processor(size={"shortest_edge": SIDE}, crop_size=SIDE)
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


def on_the_fly(data: Path, workers: int, decode: Decode, place: Place) -> Batches:
    """The published pipeline: its image processor works with Pillow and NumPy."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return plain_loader(OnTheFly(data, processor=CLIPImageProcessorPil), workers)


def on_the_fly_faster(data: Path, workers: int, decode: Decode, place: Place) -> Batches:
    """The same with today's default processor, which works with torchvision."""
    from transformers import CLIPImageProcessor

    return plain_loader(OnTheFly(data, processor=CLIPImageProcessor), workers)


def ours(data: Path, workers: int, name: str, place: Place) -> Batches:
    """Our loader with as many decode threads as peers have workers, endless."""
    from loader_data import our_loader

    from vchat.shards.format.open_shards import open_shards
    from vchat.shards.loading import sample_loader
    from vchat.shards.storage.config import StorageConfig

    if name == "none":
        sample_loader.decode_into = lambda pixels, *_, **__: pixels.fill(0)
    storage = StorageConfig(cache=Path(place.cache) if place.cache else None)
    stored = f"{place.url}/set" if place.url else data / "set"
    for batch in our_loader(open_shards(stored, storage=storage), threads=workers):
        if name == "pillow":  # float32 is made by the consumer, one thread
            pixels = batch.pixels.float().mul_(1 / 255)
            pixels.sub_(torch.from_numpy(MEAN)).div_(torch.from_numpy(STD))
            batch = replace(batch, pixels=pixels)
        yield batch


def limit(data: Path, workers: int, name: str, place: Place) -> Iterator[tuple[None, None, int]]:
    """No loader: plain threads decode what is in memory, 16 images at a time, and keep nothing."""
    from peer_sets import read_stored

    from vchat.shards.pixels.decode import Scratch, decode_into

    images = [split(sample) for sample in read_stored(data)]
    flat = [image for several in images for image in several]
    chunks = iter([flat[n : n + IMAGES_AT_ONCE] for n in range(0, len(flat), IMAGES_AT_ONCE)])

    def decode_chunks() -> None:
        scratch, buffer = Scratch(), np.empty((IMAGES_AT_ONCE, SIDE, SIDE, 3), np.uint8)
        for chunk in chunks:
            for body, pixels in zip(chunk, buffer, strict=False):
                decode_into(pixels, body, shorter_side=SIDE, scratch=scratch)

    threads = [threading.Thread(target=decode_chunks) for _ in range(workers)]
    yield None, None, 0
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    yield None, None, len(images)


READERS: dict[str, Callable[..., Batches]] = {
    "webdataset": webdataset,
    "mosaicml": mosaicml,
    "litdata": litdata,
    "energon": energon,
    "on-the-fly": on_the_fly,
    "on-the-fly, torchvision": on_the_fly_faster,
    "ours": ours,
    "limit": limit,
}
NAMED_DECODE = ("ours", "limit")
"""These take the name of the decoder, not the decoder."""

BEFORE_THE_CLOCK = {"ours": 4}
"""Batches until its threads have started and its prefetch is full; 1 for all others."""

ENDLESS = ("ours", "energon")


def num_samples_of(batch: Any) -> int:
    """Return how many samples a batch has."""
    return int(batch[2]) if isinstance(batch, tuple | list) else sum(len(row) for row in batch.keys)


def cpu_s() -> float:
    """CPU seconds of this process and of those it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def measure_reader(
    begin: Callable[[], Batches], *, uncounted: int, most: float
) -> tuple[dict[str, float], list[Any]]:
    """Consume batches up to a number of samples; return rates, and the first, uncounted batches."""
    stream = iter(begin())
    first = list(itertools.islice(stream, uncounted))
    began, cpu, samples = time.perf_counter(), cpu_s(), 0
    for batch in stream:
        samples += num_samples_of(batch)
        if samples >= most:
            break
    wall = time.perf_counter() - began
    del stream  # worker processes end, so that their CPU time counts
    cpu_ms = 1e3 * (cpu_s() - cpu) / samples
    return {"samples": samples, "rate": samples / wall, "cpu_ms": cpu_ms}, first


def check_reader(reader: str, first: list[Any], *, decode: str, data: Path) -> dict[str, float]:
    """Compare the first batches with what is stored; return by how many grey levels they differ."""
    if reader == "limit":
        return {}
    if reader.startswith("on-the-fly"):
        pixels = np.concatenate([batch[1].numpy() for batch in first])
        levels = difference_of_processed(pixels, data=data)
        return {"checked": sum(num_samples_of(batch) for batch in first), "levels": levels}
    samples = list((of_ours if reader == "ours" else of_padded)(first, slot=image_id(data)))
    levels = largest_difference(samples, data=data, with_pixels=decode != "none")
    return {"checked": len(samples), "levels": levels}


def main() -> None:
    """Measure one reader."""
    reader, data, workers, decode, place = sys.argv[1:]
    torch.set_num_threads(1)
    folder = Path(data)
    how = decode if reader in NAMED_DECODE else decoder(decode)
    num_samples = len(json.loads((folder / "dialogues.json").read_text()))
    found, first = measure_reader(
        lambda: READERS[reader](folder, int(workers), how, Place.of(place)),
        uncounted=BEFORE_THE_CLOCK.get(reader, 1),
        most=num_samples if reader in ENDLESS else float("inf"),
    )
    print(json.dumps(found | check_reader(reader, first, decode=decode, data=folder)))


if __name__ == "__main__":
    main()
