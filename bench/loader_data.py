"""The data of the loader's benchmarks: dialogues as photographs and as shards; our loader.

Photographs are drawn, 640 x 480, JPEG quality 90, about 75 kB; their copies with a shorter side of
224 pixels have about 22 kB. A dialogue shows 1 to 4 of them and has 350 text tokens.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vchat.shards.format.open_shards import open_shards
from vchat.shards.format.publish import describe_shard, publish
from vchat.shards.format.sample import RecordOrigin, Sample, StoredImage, StoredRound
from vchat.shards.format.shard_set import ShardSet
from vchat.shards.format.writer import write_shard
from vchat.shards.loading.loader import Loader
from vchat.shards.plan.arguments import PlanArguments
from vchat.shards.text.template import VisualChatTemplate
from vchat.shards.text.tokenizer import TextTokenizer

SIDE = 224
POSITIONS_PER_IMAGE = 257
FULL, SMALL = (640, 480), (298, SIDE)
NUM_PHOTOS = 100
TEXT_TOKENS = 350
SHARDS = 6


@dataclass(frozen=True)
class Dialogue:
    """One dialogue: which photographs it shows, and its token ids."""

    photos: tuple[int, ...]
    ids: np.ndarray
    """int32[T], one slot id per image first."""


def photograph(seed: int) -> Image.Image:
    """Draw smooth noise at seven scales, whose JPEG is as large as that of a photograph."""
    rng = np.random.default_rng(seed)
    width, height = FULL
    drawn = np.zeros((height, width, 3), np.float32)
    for octave in range(2, 9):
        cells = 2**octave
        size = (width * cells // 512 + 2, height * cells // 512 + 2)
        for channel in range(3):
            small = Image.fromarray(rng.normal(size=size[::-1]).astype(np.float32))
            drawn[..., channel] += np.asarray(small.resize(FULL, Image.Resampling.BICUBIC)) * (
                0.75**octave * 60
            )
    return Image.fromarray((drawn + 128).clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, *, size: tuple[int, int]) -> bytes:
    """Encode an image at a size."""
    file = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def dialogues(num_samples: int, *, image_id: int) -> Iterator[Dialogue]:
    """Yield the dialogues, always the same."""
    rng = np.random.default_rng(0)
    for _ in range(num_samples):
        photos = tuple(int(n) for n in rng.integers(NUM_PHOTOS, size=rng.integers(1, 5)))
        ids = np.concatenate([np.full(len(photos), image_id), rng.integers(3, 250, TEXT_TOKENS)])
        yield Dialogue(photos, ids.astype(np.int32))


def sample_of(number: int, dialogue: Dialogue, *, photos: list[bytes]) -> Sample:
    """Return a dialogue as our shards store it."""
    key = f"bench/{number}"
    origin = RecordOrigin(
        key=key, file="none", record_id=str(number), licence="none", first_round=0, num_rounds=1
    )
    images = tuple(
        StoredImage(
            key=f"{key}:{k}",
            data=photos[photo],
            extension="jpg",
            size=SMALL,
            original_size=FULL,
        )
        for k, photo in enumerate(dialogue.photos)
    )
    return Sample(
        key=key,
        source="bench",
        split="train",
        records=(origin,),
        rounds=(StoredRound(images=tuple(range(len(images))), question="q", answer="a"),),
        images=images,
        ids=dialogue.ids,
        supervised=np.arange(len(dialogue.ids)) > 300,
    )


def write_data(folder: Path, *, num_samples: int, tokenizer: Path) -> ShardSet:
    """Write `set/` (our shards), `photos/` and `dialogues.json` (for on-the-fly loading)."""
    loaded = TextTokenizer.load(tokenizer)
    drawn = [photograph(seed) for seed in range(NUM_PHOTOS)]
    (folder / "photos").mkdir(parents=True)
    for number, photo in enumerate(drawn):
        (folder / "photos" / f"{number}.jpg").write_bytes(jpeg(photo, size=FULL))
    small = [jpeg(photo, size=SMALL) for photo in drawn]
    listed = list(dialogues(num_samples, image_id=loaded.image_id))
    text = "What color is the square? The square is red. How many circles are there? "
    rows = [{"photos": dialogue.photos, "text": text * 20} for dialogue in listed]
    (folder / "dialogues.json").write_text(json.dumps(rows))
    samples = (sample_of(n, dialogue, photos=small) for n, dialogue in enumerate(listed))
    shards, each = [], -(-num_samples // SHARDS)
    (folder / "set").mkdir()
    for number in range(SHARDS):
        path = folder / "set" / f"train-{number:06d}.tar"
        rows_written = write_shard(
            path, itertools.islice(samples, each), first_number=number * each
        )
        shards.append(describe_shard(path, split="train", rows=rows_written))
    template = VisualChatTemplate()
    facts = {"template": {"name": template.name, "system": template.system}, "licences": {}}
    publish(folder / "set", manifest_without_shards=facts, shards=shards, tokenizer=loaded)
    return open_shards(folder / "set")


def our_loader(
    shard_set: ShardSet,
    *,
    threads: int = 2,
    rows_per_step: int = 4,
    plan_folder: Path | None = None,
) -> Loader:
    """Return our loader at the start of an epoch that mixes all shards, 4 rows a micro-batch."""
    arguments = PlanArguments(
        split="train",
        seed=1,
        epoch=0,
        tokens_per_row=4096,
        images_per_row=16,
        positions_per_image=POSITIONS_PER_IMAGE,
        shuffle_window_shards=8,
    )
    return Loader(
        shard_set,
        arguments,
        rows_per_step=rows_per_step,
        rows_per_micro_batch=4,
        image_size=SIDE,
        threads=threads,
        plan_folder=plan_folder,
    )
