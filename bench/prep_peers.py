"""What `bench/prep.py` runs in environments of their own: sample photographs, and three peers.

    python prep_peers.py photos FOLDER COUNT        photographs of 640 by 480 pixels
    python prep_peers.py PEER CODEC FOLDER OUT      one pass of webdataset, mosaicml or litdata

A peer reads LLaVA's annotation file, re-encodes each photograph, tokenizes its question and answer
and stores the three, as a script of its users does: no checks, no plan, no report. It prints its
seconds of the clock and of CPU, without the start of Python and its imports. CODEC is `pillow`, or
`fast` for the libraries that the build uses.
"""

from __future__ import annotations

import importlib
import io
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (640, 480)
STORED = (299, 224)
QUALITY = 90
PHOTO_QUALITY = 93


def main() -> None:
    """Make photographs, or run one peer and print `seconds cpu_seconds`."""
    if sys.argv[1] == "photos":
        write_photos(Path(sys.argv[2]), int(sys.argv[3]))
        return
    peer, codec, folder, out = sys.argv[1:]
    library, run = PEERS[peer]
    CODECS[codec](one_photo(Path(folder)))
    module = importlib.import_module(library)
    clock, cpu = time.perf_counter(), cpu_seconds()
    run(module, Path(folder), out, CODECS[codec])
    print(time.perf_counter() - clock, cpu_seconds() - cpu)


def cpu_seconds() -> float:
    """Return CPU seconds of this process and of its children that have ended."""
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def write_photos(folder: Path, count: int) -> None:
    """Write photographs cut from the sample photos of scikit-image and scikit-learn."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    names = ("astronaut", "chelsea", "coffee", "rocket", "retina")
    photos = [*(getattr(data, name)() for name in names), *load_sample_images().images]
    rng = np.random.default_rng(0)
    for number in range(count):
        photo = Image.fromarray(photos[number % len(photos)])
        cut = photo.resize(SIZE, Image.Resampling.LANCZOS, box=random_box(photo.size, rng))
        if rng.integers(2):
            cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        cut.save(folder / f"{number:012d}.jpg", quality=PHOTO_QUALITY)


def random_box(size: tuple[int, int], rng: np.random.Generator) -> tuple[float, ...]:
    """Return a part of an image, 4 to 3, of at least 0.8 of what fits."""
    width, height = size
    scale = min(width / SIZE[0], height / SIZE[1]) * rng.uniform(0.8, 1.0)
    wide, high = SIZE[0] * scale, SIZE[1] * scale
    left, top = rng.uniform(0, width - wide), rng.uniform(0, height - high)
    return left, top, left + wide, top + high


def with_pillow(data: bytes) -> bytes:
    """Re-encode a photograph as most scripts do."""
    with Image.open(io.BytesIO(data)) as image:
        small = image.convert("RGB").resize(STORED, Image.Resampling.BICUBIC)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def with_fast(data: bytes) -> bytes:
    """Re-encode a photograph with the libraries of the build."""
    import simplejpeg
    import torch

    rgb = torch.from_numpy(simplejpeg.decode_jpeg(data))[None].permute(0, 3, 1, 2)
    size = (STORED[1], STORED[0])
    small = torch.nn.functional.interpolate(rgb, size=size, mode="bicubic", antialias=True)
    pixels = np.ascontiguousarray(small[0].permute(1, 2, 0).numpy())
    return simplejpeg.encode_jpeg(pixels, quality=QUALITY, colorsubsampling="420")


CODECS = {"pillow": with_pillow, "fast": with_fast}
Codec = Callable[[bytes], bytes]


@cache
def tokenizer(folder: Path) -> Any:
    """Return the tokenizer, once per process."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer/tokenizer.json"))


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the annotation file's rows."""
    return json.loads((folder / "data/llava/detail_23k.json").read_text())


def sample(row: dict[str, Any], *, folder: Path, codec: Codec) -> dict[str, Any]:
    """Return the parts of one sample: image bytes, token ids, texts."""
    photo = folder / "data/coco/train2017" / row["image"]
    text = "\n".join(turn["value"] for turn in row["conversations"])
    ids = np.array(tokenizer(folder).encode(text).ids, dtype=np.int32)
    return {"jpg": codec(photo.read_bytes()), "ids": ids, "text": text}


def samples(folder: Path, codec: Codec) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `(key, parts)` of every sample."""
    for row in rows(folder):
        yield row["id"], sample(row, folder=folder, codec=codec)


def one_photo(folder: Path) -> bytes:
    """Return a photograph to warm up with."""
    return (folder / "data/coco/train2017/000000000000.jpg").read_bytes()


def webdataset_writer(webdataset: Any, folder: Path, out: str, codec: Codec) -> None:
    """Write tars with webdataset's ShardWriter, in one process."""
    Path(out).mkdir()
    with webdataset.ShardWriter(f"{out}/%06d.tar", maxsize=64e6, verbose=0) as writer:
        for key, parts in samples(folder, codec):
            fields = {"jpg": parts["jpg"], "npy": parts["ids"], "txt": parts["text"]}
            writer.write({"__key__": key} | fields)


def mds_writer(streaming: Any, folder: Path, out: str, codec: Codec) -> None:
    """Write MosaicML's shards, in one process."""
    columns = {"jpg": "bytes", "ids": "ndarray:int32", "text": "str"}
    with streaming.MDSWriter(out=out, columns=columns, size_limit="64mb") as writer:
        for _, parts in samples(folder, codec):
            writer.write(parts)


def litdata_optimize(litdata: Any, folder: Path, out: str, codec: Codec) -> None:
    """Write litdata's chunks; its one worker is a process that it starts."""
    litdata.optimize(
        fn=partial(sample, folder=folder, codec=codec),
        inputs=rows(folder),
        output_dir=out,
        num_workers=1,
        chunk_bytes="64MB",
        verbose=False,
    )


PEERS = {
    "webdataset": ("webdataset", webdataset_writer),
    "mosaicml": ("streaming", mds_writer),
    "litdata": ("litdata", litdata_optimize),
}


if __name__ == "__main__":
    main()
