"""MIMIC-IT: five sets of questions about several images, each as a pair of JSON files.

`X_instructions.json` holds the questions and `X.json` the images, as base64 under their ids. The
ids in the two files differ in SN and TVC, as they do upstream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vchat.prep.sample_data import questions
from vchat.prep.sample_data.coco import PhotographPair
from vchat.prep.sample_data.draw import draw_picture
from vchat.prep.sample_data.draws import Draws
from vchat.prep.sample_data.questions import QuestionAnswer
from vchat.prep.sample_data.walks import Walk, draw_walk
from vchat.prep.sample_data.world import CHANGES, ScenePair, draw_pair
from vchat.prep.sample_data.write import write_json, write_mimicit_images

Instructions = dict[str, dict[str, Any]]
Images = dict[str, Image.Image]

FRAMES_SN = 16
"""Frames of one walk through a scene: the smallest number in published records."""

FRAMES_TVC = 6
PICTURES_VST = 5


def link_instructions(
    ids: Sequence[str], asked: Sequence[QuestionAnswer], image_ids: Sequence[str]
) -> Instructions:
    """Return instructions about equal images; each names all the others as related."""
    return {
        each: {
            "instruction": question,
            "answer": answer,
            "image_ids": list(image_ids),
            "rel_ins_ids": [other for other in ids if other != each],
        }
        for each, (question, answer) in zip(ids, asked, strict=True)
    }


def write_set(root: Path, name: str, *, instructions: Instructions, images: Images) -> None:
    """Write the two files of one set."""
    folder = root / "MIMIC-IT" / name
    meta = {"version": "0.0.1", "time": "2023-06", "author": "sample data"}
    write_json(folder / f"{name}_instructions.json", {"meta": meta, "data": instructions})
    write_mimicit_images(folder / f"{name}.json", images)


def write_cgd(root: Path, pairs: Sequence[PhotographPair], seed: int) -> None:
    """Write CGD: two groups of questions about each pair of COCO photographs."""
    instructions: Instructions = {}
    images: Images = {}
    for both in pairs:
        draws = Draws(seed, "cgd", both.first.number)
        shown = {f"CGD_IMG_{each.number:012d}": each.image for each in (both.first, both.second)}
        images |= shown
        for asked in (
            comparison_questions(both.pair, draws),
            single_image_questions(both.pair, draws),
        ):
            start = len(instructions) + 1
            ids = [f"CGD_INS_{start + i:06d}" for i in range(len(asked))]
            instructions |= link_instructions(ids, asked, list(shown))
    write_set(root, "CGD", instructions=instructions, images=images)


def comparison_questions(pair: ScenePair, draws: Draws) -> list[QuestionAnswer]:
    """Return questions about the difference of two images, in random order."""
    thing = draws.pick(pair.odd_things())
    return draws.shuffle([questions.which_image(pair, thing), questions.what_changed(pair)])


def single_image_questions(pair: ScenePair, draws: Draws) -> list[QuestionAnswer]:
    """Return questions about one image by its number, in random order."""
    described = questions.describe_image(pair, draws.between(1, 2))
    return draws.shuffle([questions.color_in_image(pair, draws), described])


def write_sd(root: Path, seed: int, *, number: int) -> None:
    """Write SD: what changed between two frames of one camera."""
    instructions: Instructions = {}
    images: Images = {}
    for i in range(1, number + 1):
        draws = Draws(seed, "sd", i)
        pair = draw_pair(draws, change=draws.pick(CHANGES))
        shown = {
            f"SD_IMG_{i:05d}_{side}": draw_picture(scene, draws)
            for side, scene in enumerate((pair.first, pair.second), start=1)
        }
        instructions |= link_instructions(
            [f"SD_INS_{i:06d}"], [questions.what_changed(pair)], list(shown)
        )
        images |= shown
    write_set(root, "SD", instructions=instructions, images=images)


def write_sn(root: Path, seed: int, *, number: int) -> None:
    """Write SN: rounds about the frames of a walk; instructions omit `_00` of a scan's id."""
    instructions: Instructions = {}
    images: Images = {}
    for i in range(number):
        walk = draw_walk(Draws(seed, "sn", i), steps=FRAMES_SN)
        frames = [f"color_{100 * frame:06d}" for frame in range(FRAMES_SN)]
        images |= draw_frames(walk, [f"SN_IMG_scene{i:04d}_00_{frame}" for frame in frames])
        asked = [walk.where_first(), walk.where_last()]
        ids = [f"SN_INS_scene{i:04d}_activity0_round{n}" for n in range(len(asked))]
        instructions |= link_instructions(
            ids, asked, [f"SN_IMG_scene{i:04d}_{frame}" for frame in frames]
        )
    write_set(root, "SN", instructions=instructions, images=images)


def write_tvc(root: Path, seed: int, *, number: int) -> None:
    """Write TVC: what happens in a clip; instructions name the clip twice, the images once."""
    instructions: Instructions = {}
    images: Images = {}
    for i in range(number):
        walk = draw_walk(Draws(seed, "tvc", i), steps=FRAMES_TVC)
        show = ("castle", "bbt")[i % 2]
        clip = f"s01e{1 + i // 20:02d}_seg{1 + i // 10 % 2:02d}_clip_{i % 10:02d}"
        first_half = clip if show == "bbt" else f"{show}_{clip}"
        numbers = [f"{frame:05d}" for frame in range(1, FRAMES_TVC + 1)]
        images |= draw_frames(walk, [f"TVC_IMG_{show}_{clip}_{frame}" for frame in numbers])
        asked_ids = [f"TVC_IMG_{first_half}_{show}_{clip}_{frame}" for frame in numbers]
        instructions |= link_instructions(
            [f"TVC_INS_{i + 1:06d}"], [walk.what_happens()], asked_ids
        )
    write_set(root, "TVC", instructions=instructions, images=images)


def write_vst(root: Path, seed: int, *, number: int) -> None:
    """Write VST: a story about five pictures, named by photo numbers."""
    instructions: Instructions = {}
    images: Images = {}
    for i in range(number):
        walk = draw_walk(Draws(seed, "vst", i), steps=PICTURES_VST)
        ids = [f"VST_IMG_{40000 + 10 * i + n}" for n in range(PICTURES_VST)]
        images |= draw_frames(walk, ids)
        instructions |= link_instructions([f"VST_INS_{i + 1:06d}"], [walk.story()], ids)
    write_set(root, "VST", instructions=instructions, images=images)


def draw_frames(walk: Walk, image_ids: Sequence[str]) -> Mapping[str, Image.Image]:
    """Draw the frames of a walk and return them by id."""
    return {
        image_id: draw_picture(scene, walk.draws)
        for image_id, scene in zip(image_ids, walk.scenes, strict=True)
    }
