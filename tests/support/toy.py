"""Makes toy tokenizers, samples and shard sets for all tests; no fixture is a binary file."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from vchat.shards.format.open_shards import open_shards
from vchat.shards.format.publish import describe_shard, publish
from vchat.shards.format.sample import RecordOrigin, Sample, StoredImage, StoredRound
from vchat.shards.format.shard_set import ShardSet
from vchat.shards.format.writer import write_shard
from vchat.shards.text.template import TextRound, VisualChatTemplate
from vchat.shards.text.tokenizer import TextTokenizer

WORDS = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks. "
    "### Image 1:\n### Image 2:\n### Question:\nWhat color is the square?\n\n### Answer:\n"
    "The square is red. How many circles are there? two three four blue green yellow left right\n"
)


def toy_tokenizer(
    folder: Path,
    *,
    begin: str | None = "<s>",
    end: str | None = "</s>",
    merge_across_words: bool = False,
    num_ids: int = 420,
    added: Sequence[AddedToken] = (),
) -> Path:
    """Train a byte-level BPE on a few words and write it to folder; returns the folder.

    Args:
        folder: Made if absent.
        begin: None for a tokenizer without one.
        end: None for one that cannot be used.
        merge_across_words: No splitting before merging, so tokens reach across blanks and lines.
        num_ids: At most; 256 of them are the bytes.
        added: Further tokens, special or not.
    """
    special = [text for text in (begin, end) if text is not None]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=not merge_across_words
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=num_ids,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS] * 4, trainer)
    tokenizer.add_tokens(list(added))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": begin, "eos_token": end}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


COLORS = ("red", "green", "blue", "yellow")


def toy_image(
    number: int, *, size: tuple[int, int] = (40, 32), extension: str = "jpg"
) -> StoredImage:
    """Draw a square in the color `COLORS[number % 4]` on gray, at a place that tells the number."""
    image = Image.new("RGB", size, "gray")
    left, top = number * 3 % (size[0] - 8), number * 5 % (size[1] - 8)
    ImageDraw.Draw(image).rectangle(
        (left, top, left + 8, top + 8), fill=COLORS[number % len(COLORS)]
    )
    file = io.BytesIO()
    image.save(file, format={"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[extension], quality=90)
    return StoredImage(
        key=f"toy:{number}",
        data=file.getvalue(),
        extension=extension,
        size=size,
        original_size=(size[0] * 2, size[1] * 2),
    )


def toy_sample(
    number: int,
    tokenizer: TextTokenizer,
    *,
    num_images: int = 2,
    split: str = "train",
    source: str = "toy",
    image_size: tuple[int, int] = (40, 32),
) -> Sample:
    """Make a sample with one round per image (one round if there is none), as a build would.

    Its image numbers are `number * 10`, `number * 10 + 1`, ...; answers name their colors.
    """
    images = tuple(toy_image(number * 10 + i, size=image_size) for i in range(num_images))
    rounds = tuple(
        StoredRound(
            images=(i,),
            question=f"What color is square {number}?",
            answer=f"The square is {COLORS[(number * 10 + i) % len(COLORS)]}.",
        )
        for i in range(num_images)
    ) or (StoredRound(images=(), question="How many?", answer=f"There are {number}."),)
    return sample_of(f"{source}/{number}", tokenizer, rounds, images, split=split, source=source)


def sample_of(
    key: str,
    tokenizer: TextTokenizer,
    rounds: tuple[StoredRound, ...],
    images: tuple[StoredImage, ...],
    *,
    split: str = "train",
    source: str = "toy",
) -> Sample:
    """Tokenize rounds with the published template into one sample of one record."""
    encoded = tokenizer.encode(
        VisualChatTemplate().dialogue(
            [
                TextRound(num_images=len(r.images), question=r.question, answer=r.answer)
                for r in rounds
            ]
        )
    )
    origin = RecordOrigin(
        key=key,
        file="toy.json",
        record_id=key.partition("/")[2],
        licence="none",
        first_round=0,
        num_rounds=len(rounds),
    )
    return Sample(
        key=key,
        source=source,
        split=split,
        records=(origin,),
        rounds=rounds,
        images=images,
        ids=encoded.ids,
        supervised=encoded.supervised,
    )


def toy_shards(
    folder: Path,
    *,
    num_samples: int = 8,
    images_per_sample: int | Callable[[int], int] = 2,
    num_eval: int = 2,
    samples_per_shard: int = 5,
    image_size: tuple[int, int] = (40, 32),
    tokenizer: TextTokenizer | None = None,
) -> ShardSet:
    """Write and open a published shard set with drawn images, splits `train` and `eval`.

    Args:
        folder: Made if absent.
        num_samples: In split `train`, numbered from 0; sources alternate `toy` and `toy2`.
        images_per_sample: A count, or a function of the sample's number.
        num_eval: In split `eval`, numbered on from there.
        samples_per_shard: At most; several shards come from more samples.
        image_size: Width and height of every image.
        tokenizer: By default a toy one, trained into `folder/../toy_tokenizer`.
    """
    if tokenizer is None:
        tokenizer = TextTokenizer.load(toy_tokenizer(folder.parent / "toy_tokenizer"))
    count = images_per_sample
    num_images = count if callable(count) else lambda number: count
    samples = [
        toy_sample(
            number,
            tokenizer,
            num_images=num_images(number),
            split="train" if number < num_samples else "eval",
            source=("toy", "toy2")[number % 2],
            image_size=image_size,
        )
        for number in range(num_samples + num_eval)
    ]
    return publish_samples(
        folder, samples, tokenizer=tokenizer, samples_per_shard=samples_per_shard
    )


def publish_samples(
    folder: Path,
    samples: Sequence[Sample],
    *,
    tokenizer: TextTokenizer,
    samples_per_shard: int = 1000,
    facts: Mapping[str, object] | None = None,
) -> ShardSet:
    """Write samples as shards in their order, publish the set, and open it.

    Args:
        folder: Made if absent.
        samples: Those of a split lie together.
        tokenizer: The one that has made their ids.
        samples_per_shard: At most.
        facts: What the manifest states differently from `toy_manifest`.
    """
    shards, first_number = [], 0
    for split, group in itertools.groupby(samples, key=lambda sample: sample.split):
        of_split = list(group)
        for start in range(0, len(of_split), samples_per_shard):
            path = folder / f"{split}-{start // samples_per_shard:06d}.tar"
            some = of_split[start : start + samples_per_shard]
            rows = write_shard(path, some, first_number=first_number)
            first_number += len(some)
            shards.append(describe_shard(path, split=split, rows=rows))
    manifest = toy_manifest() | dict(facts or {})
    publish(folder, manifest_without_shards=manifest, shards=shards, tokenizer=tokenizer)
    return open_shards(folder)


def toy_manifest() -> dict[str, object]:
    """What a build states about itself, apart from its shards."""
    template = VisualChatTemplate()
    return {
        "digests": {"inputs": "0" * 64, "plan": "1" * 64},
        "template": {"name": template.name, "system": template.system},
        "max_tokens": 2048,
        "positions_per_image": 17,
        "image": {"size": 32, "format": "jpg", "quality": 90},
        "recipe": {"datasets": ["toy", "toy2"], "seed": 0},
        "libraries": {},
        "licences": {"toy": "none", "toy2": "none"},
    }
