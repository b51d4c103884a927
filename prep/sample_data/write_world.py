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

from vchat.base.cli import WrongUse
from vchat.base.progress import show_progress
from vchat.prep.sample_data import books, captions, coco, evaluation, mimicit
from vchat.prep.sample_data.tokenizer import write_tokenizer
from vchat.prep.sample_data.write import write_json

MARKER = "sample_data.json"
VERSION = 1
"""Raised when equal arguments give another world than before."""

MIN_IMAGES = 120
"""Enough that every source has something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The parameters of a sample world, and the number of things of each kind."""

    images: int
    seed: int
    version: int = VERSION

    @property
    def num_photograph_pairs(self) -> int:
        """The number of COCO pairs: six tenths of the pictures are COCO photographs."""
        return 3 * self.images // 10

    @property
    def num_books(self) -> int:
        """The number of book covers: a quarter of the pictures."""
        return self.images // 4

    @property
    def num_captioned(self) -> int:
        """The number of pictures of MiniGPT-4, and of SparklesDialogueVG: a fortieth each."""
        return self.images // 40

    @property
    def num_sequences(self) -> int:
        """The number of pairs or sequences of each of SD, SN, TVC and VST."""
        return max(1, self.images // 240)


def write_world(root: Path, world: World) -> bool:
    """Write everything; return False if the folder holds this world already.

    Raises:
        ValueError: If the folder holds something else, or `images` is too small.
    """
    if world.images < MIN_IMAGES:
        raise WrongUse(f"--images {world.images} is too few, wanted at least {MIN_IMAGES}")
    if is_complete(root, world):
        return False
    write_json(root / MARKER, {**asdict(world), "complete": False})
    pairs = coco.draw_photograph_pairs(world.seed, number=world.num_photograph_pairs)
    photographs = [each for both in pairs for each in (both.first, both.second)]
    with show_progress("COCO photographs", total=len(photographs), unit="images") as advance:
        coco.write_photographs(root, photographs, advance=advance)
    for step in (coco.write_llava, coco.write_aokvqa, coco.write_captions):
        step(root, photographs, world.seed)
    with show_progress("book covers", total=world.num_books, unit="images") as advance:
        drawn = books.draw_books(world.seed, number=world.num_books)
        books.write_ocr_vqa(root, drawn, world.seed, advance=advance)
    write_mimicit(root, world, pairs)
    write_captioned(root, world)
    asked = evaluation.draw_items(world.seed)
    images = sum(len(item.images) for item in asked)
    with show_progress("held-out pictures", total=images, unit="images") as advance:
        evaluation.write_evaluation(root, asked, advance=advance)
    write_tokenizer(root / "tokenizer")
    write_json(root / MARKER, {**asdict(world), "complete": True})
    return True


def is_complete(root: Path, world: World) -> bool:
    """Tell whether the folder holds this world completely.

    Raises:
        ValueError: If it holds another world (the message names both), or other files, which may
            be a real data set.
    """
    if not (root / MARKER).is_file():
        if root.is_dir() and any(root.iterdir()):
            raise ValueError(f"{root} is not empty and holds no sample data; choose another folder")
        return False
    marker = json.loads((root / MARKER).read_text(encoding="utf-8"))
    complete = marker.pop("complete", False)
    if marker != asdict(world):
        raise ValueError(
            f"{root} holds another world: {marker}, wanted {asdict(world)}; choose another folder"
            " or remove this one"
        )
    return bool(complete)


def write_mimicit(root: Path, world: World, pairs: list[coco.PhotographPair]) -> None:
    """Write the five sets of MIMIC-IT."""
    with show_progress("MIMIC-IT", total=5, unit="sets") as advance:
        mimicit.write_cgd(root, pairs, world.seed)
        advance(1)
        for step in (mimicit.write_sd, mimicit.write_sn, mimicit.write_tvc, mimicit.write_vst):
            step(root, world.seed, number=world.num_sequences)
            advance(1)


def write_captioned(root: Path, world: World) -> None:
    """Write MiniGPT-4 and both parts of Sparkles."""
    shared = captions.draw_captioned_pictures(world.seed, "cc", number=world.num_captioned)
    own = captions.draw_captioned_pictures(world.seed, "vg", number=world.num_captioned)
    captions.write_minigpt4(root, shared)
    captions.write_sparkles(root, "CC", shared, world.seed)
    captions.write_sparkles(root, "VG", own, world.seed)
