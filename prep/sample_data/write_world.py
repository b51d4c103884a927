"""Draw one world and write it in the formats of all 13 sources, with an evaluation and a tokenizer.

In: a folder, a number of pictures, a seed. The folder's `sample_data.json` names number and seed,
and says whether the folder is complete; it is written first and last. Equal arguments give equal
files.
(`llava_otter_blend` has no files of its own: it joins those of LLaVA and CGD.)
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from vchat.base.progress import progress
from vchat.prep.sample_data import books, captions, coco, evaluation, mimicit
from vchat.prep.sample_data.tokenizer import write_tokenizer
from vchat.prep.sample_data.write import write_json

MARKER = "sample_data.json"
VERSION = 1
"""Raised when equal arguments give another world than before."""

LEAST_IMAGES = 120
"""So that every source has something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """How much of each kind there is."""

    images: int
    seed: int
    version: int = VERSION

    @property
    def photograph_pairs(self) -> int:
        """Return the number of COCO pairs: six tenths of the pictures are COCO photographs."""
        return 3 * self.images // 10

    @property
    def books(self) -> int:
        """Return the number of covers: a quarter."""
        return self.images // 4

    @property
    def described(self) -> int:
        """Return how many pictures MiniGPT-4 has, and SparklesDialogueVG: a fortieth."""
        return self.images // 40

    @property
    def sequences(self) -> int:
        """Return the number of pairs or sequences of each of SD, SN, TVC and VST."""
        return max(1, self.images // 240)


def write_world(root: Path, world: World) -> bool:
    """Write everything; returns False if the folder holds just this world already.

    Raises:
        ValueError: the folder holds something else, or `images` is too small.
    """
    if world.images < LEAST_IMAGES:
        raise ValueError(f"--images {world.images} is too few, wanted at least {LEAST_IMAGES}")
    if is_complete(root, world):
        return False
    write_json(root / MARKER, {**asdict(world), "complete": False})
    pairs = coco.photograph_pairs(world.seed, number=world.photograph_pairs)
    photographs = [each for both in pairs for each in (both.first, both.second)]
    with progress("COCO photographs", total=len(photographs), unit="images") as done:
        coco.write_photographs(root, photographs, done=done)
    for step in (coco.write_llava, coco.write_aokvqa, coco.write_captions):
        step(root, photographs, world.seed)
    with progress("book covers", total=world.books, unit="images") as done:
        found = books.books(world.seed, number=world.books)
        books.write_ocr_vqa(root, found, world.seed, done=done)
    write_mimicit(root, world, pairs)
    write_described(root, world)
    asked = evaluation.items(world.seed)
    images = sum(len(item.images) for item in asked)
    with progress("held-out pictures", total=images, unit="images") as done:
        evaluation.write_evaluation(root, asked, done=done)
    write_tokenizer(root / "tokenizer")
    write_json(root / MARKER, {**asdict(world), "complete": True})
    return True


def is_complete(root: Path, world: World) -> bool:
    """Return whether the folder holds this world, all of it.

    Raises:
        ValueError: it holds another world (the message names both), or files of something else,
            which could be a real data set.
    """
    if not (root / MARKER).is_file():
        if root.is_dir() and any(root.iterdir()):
            raise ValueError(f"{root} is not empty and holds no sample data; choose another folder")
        return False
    found = json.loads((root / MARKER).read_text(encoding="utf-8"))
    complete = found.pop("complete", False)
    if found != asdict(world):
        raise ValueError(
            f"{root} holds another world: {found}, wanted {asdict(world)}; choose another folder"
            " or remove this one"
        )
    return bool(complete)


def write_mimicit(root: Path, world: World, pairs: list[coco.PhotographPair]) -> None:
    """Write the five sets of MIMIC-IT."""
    with progress("MIMIC-IT", total=5, unit="sets") as done:
        mimicit.write_cgd(root, pairs, world.seed)
        done(1)
        for step in (mimicit.write_sd, mimicit.write_sn, mimicit.write_tvc, mimicit.write_vst):
            step(root, world.seed, number=world.sequences)
            done(1)


def write_described(root: Path, world: World) -> None:
    """Write MiniGPT-4 and both parts of Sparkles."""
    shared = captions.described(world.seed, "cc", number=world.described)
    own = captions.described(world.seed, "vg", number=world.described)
    captions.write_minigpt4(root, shared)
    captions.write_sparkles(root, "CC", shared, world.seed)
    captions.write_sparkles(root, "VG", own, world.seed)
