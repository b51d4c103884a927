"""Small published shard sets for loader tests: every image and every id tells where it is from."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from toy import toy_tokenizer
from vchat.shards.codec import RecordOrigin, Sample, StoredImage, StoredRound
from vchat.shards.manifest import ShardSet, finished_shard, open_shards, publish
from vchat.shards.template import template_named
from vchat.shards.tokens import TextTokenizer
from vchat.shards.writer import write_shard

SIDE = 16


def color_of(sample: int, image: int) -> tuple[int, int, int]:
    """The colour of image `image` of sample `sample`; no two of a small set agree."""
    return (sample * 7 % 256, image * 40, sample // 36)


def png(color: tuple[int, int, int]) -> bytes:
    """A square of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), color).save(file, "PNG")
    return file.getvalue()


def drawn_sample(number: int, *, split: str, image_id: int) -> Sample:
    """Sample `number` has `number % 4` images, 6 to 16 text ids and 3 supervised ones."""
    num_images = number % 4
    text = np.full(6 + number % 11, 10 + number, np.int32)
    ids = np.concatenate([np.full(num_images, image_id, np.int32), text])
    supervised = np.zeros(len(ids), np.bool_)
    supervised[-3:] = True
    key = f"drawn/{number}"
    images = tuple(
        StoredImage(
            key=f"{key}:{k}",
            data=png(color_of(number, k)),
            extension="png",
            size=(SIDE, SIDE),
            original_size=(SIDE, SIDE),
        )
        for k in range(num_images)
    )
    origin = RecordOrigin(
        key=key,
        file="drawn.json",
        record_id=str(number),
        licence="CC0",
        first_round=0,
        num_rounds=1,
    )
    return Sample(
        key=key,
        source="drawn" if number % 3 else "other",
        split=split,
        records=(origin,),
        rounds=(StoredRound(images=tuple(range(num_images)), question="q", answer="a"),),
        images=images,
        ids=ids,
        supervised=supervised,
    )


def drawn_shards(folder: Path, *, samples_per_shard: Sequence[int] = (9, 9, 9, 9)) -> ShardSet:
    """Write and open a set of one split, `train`, with this many samples in each shard."""
    tokenizer = TextTokenizer.load(toy_tokenizer(folder / "given-tokenizer"))
    shards, number = [], 0
    for shard, count in enumerate(samples_per_shard):
        path = folder / "set" / f"train-{shard:06d}.tar"
        path.parent.mkdir(exist_ok=True)
        samples = [
            drawn_sample(n, split="train", image_id=tokenizer.image_id)
            for n in range(number, number + count)
        ]
        rows = write_shard(path, samples, first_number=number)
        shards.append(finished_shard(path, split="train", rows=rows))
        number += count
    template = template_named("visualchat", system=None)
    given = {"template": {"name": template.name, "system": template.system}, "digests": {}}
    publish(folder / "set", manifest_without_shards=given, shards=shards, tokenizer=tokenizer)
    return open_shards(folder / "set")
