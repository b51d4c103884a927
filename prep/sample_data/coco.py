"""COCO photographs, and the annotations of four sources: LLaVA (two), A-OKVQA and captions.

Photographs come in pairs that differ in one thing, because CGD (in `mimicit.py`) asks about such
pairs; the other sources ask about each photograph alone. Photographs are numbered from 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vchat.prep.sample_data import questions
from vchat.prep.sample_data.draw import draw_picture
from vchat.prep.sample_data.draws import Draws
from vchat.prep.sample_data.questions import QuestionAnswer
from vchat.prep.sample_data.world import CHANGES, COLORS, Scene, ScenePair, draw_pair, free_choices
from vchat.prep.sample_data.write import write_jpeg, write_json

JsonEntry = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Photograph:
    """One scene with its COCO number and its picture."""

    number: int
    scene: Scene
    image: Image.Image

    @property
    def file_2017(self) -> str:
        """Its name in the train2017 folder."""
        return f"{self.number:012d}.jpg"

    @property
    def part_2014(self) -> str:
        """Its folder of the 2014 release; one in four is a val2014 file."""
        return "val2014" if self.number % 4 == 0 else "train2014"

    @property
    def file_2014(self) -> str:
        """Its name in the 2014 release."""
        return f"COCO_{self.part_2014}_{self.number:012d}.jpg"


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotographPair:
    """Two photographs that differ in one thing."""

    pair: ScenePair
    first: Photograph
    second: Photograph


def draw_photograph_pairs(seed: int, *, number: int) -> list[PhotographPair]:
    """Draw `number` pairs; photographs are numbered 1, 2, 3 ... through all pairs."""
    pairs = []
    for i in range(number):
        draws = Draws(seed, "coco", i)
        pair = draw_pair(draws, change=draws.pick(CHANGES))
        first, second = (
            Photograph(number=2 * i + k, scene=scene, image=draw_picture(scene, draws))
            for k, scene in enumerate((pair.first, pair.second), start=1)
        )
        pairs.append(PhotographPair(pair=pair, first=first, second=second))
    return pairs


def write_photographs(
    root: Path, photographs: Sequence[Photograph], *, advance: Callable[[int], None]
) -> None:
    """Write every photograph under its 2017 and its 2014 name."""
    for photograph in photographs:
        write_jpeg(root / "coco/train2017" / photograph.file_2017, photograph.image)
        write_jpeg(root / "coco/2014" / photograph.file_2014, photograph.image)
        advance(1)


def write_llava(root: Path, photographs: Sequence[Photograph], seed: int) -> None:
    """Write LLaVA's three files: descriptions, reasoning, dialogues.

    As upstream, a photograph may be in several files, under the same `id`.
    """
    details, reasonings, dialogues = [], [], []
    for photograph in photographs:
        draws = Draws(seed, "llava", photograph.number)
        description = draws.pick((questions.whole_picture, questions.list_of_shapes))(
            photograph.scene
        )
        reasoning = questions.comparison_of(photograph.scene, draws)
        asked = questions.dialogue_about(photograph.scene, draws)
        details.append(llava_entry(photograph, [description], draws))
        if draws.below(8) == 0:
            reasonings.append(llava_entry(photograph, [reasoning], draws))
        dialogues.append(llava_entry(photograph, asked, draws))
    write_json(root / "llava/detail_23k.json", details)
    write_json(root / "llava/complex_reasoning_77k.json", reasonings)
    write_json(root / "llava/conversation_58k.json", dialogues)


def llava_entry(photograph: Photograph, asked: Sequence[QuestionAnswer], draws: Draws) -> JsonEntry:
    """Return one entry; `<image>` is at the start or the end of the first question."""
    turns = []
    for question, answer in asked:
        turns.append({"from": "human", "value": question})
        turns.append({"from": "gpt", "value": answer})
    first = asked[0][0]
    turns[0]["value"] = f"<image>\n{first}" if draws.below(2) else f"{first}\n<image>"
    return {
        "id": f"{photograph.number:012d}",
        "image": photograph.file_2017,
        "conversations": turns,
    }


def write_aokvqa(root: Path, photographs: Sequence[Photograph], seed: int) -> None:
    """Write A-OKVQA's training file: a question with four choices for one photograph in four."""
    entries = [
        aokvqa_entry(photograph, Draws(seed, "aokvqa", photograph.number))
        for photograph in photographs[::4]
    ]
    write_json(root / "aokvqa/annotations/aokvqa_v1p0_train.json", entries)


def aokvqa_entry(photograph: Photograph, draws: Draws) -> JsonEntry:
    """Return a question about the colour of a thing, with its choices and reasons."""
    thing = draws.pick(photograph.scene.things)
    question, answer = questions.color_of(thing)
    choices = draws.shuffle([answer, *draws.some(free_choices(COLORS, [answer]), 3)])
    return {
        "split": "train",
        "image_id": photograph.number,
        "question_id": f"sampleQ{photograph.number:08d}",
        "question": question,
        "choices": choices,
        "correct_choice_idx": choices.index(answer),
        "direct_answers": [answer] * 10,
        "difficult_direct_answer": False,
        "rationales": [
            f"The {thing.shape} is {answer}.",
            f"A {thing.name} is at the {thing.place}.",
            f"The thing at the {thing.place} is {answer}.",
        ],
    }


def write_captions(root: Path, photographs: Sequence[Photograph], seed: int) -> None:
    """Write the Karpathy split of COCO captions, with five captions or six per photograph."""
    images, sentence_id = [], 0
    for i, photograph in enumerate(photographs):
        draws = Draws(seed, "coco_caption", photograph.number)
        captions = draw_captions(photograph.scene, draws)
        ids = list(range(sentence_id, sentence_id + len(captions)))
        sentence_id += len(captions)
        images.append(karpathy_entry(photograph, i, dict(zip(ids, captions, strict=True)), draws))
    write_json(root / "coco_caption/dataset.json", {"images": images, "dataset": "coco"})


def karpathy_entry(
    photograph: Photograph, i: int, captions: dict[int, str], draws: Draws
) -> JsonEntry:
    """Return the entry of one image; val and test are val2014 files, as upstream."""
    from_val = photograph.part_2014 == "val2014"
    return {
        "filepath": photograph.part_2014,
        "sentids": list(captions),
        "filename": photograph.file_2014,
        "imgid": i,
        "split": draws.pick(("restval", "restval", "val", "test")) if from_val else "train",
        "sentences": [
            {
                "tokens": caption.lower().rstrip(".").split(),
                "raw": caption,
                "imgid": i,
                "sentid": sentence_id,
            }
            for sentence_id, caption in captions.items()
        ],
        "cocoid": photograph.number,
    }


def draw_captions(scene: Scene, draws: Draws) -> list[str]:
    """Choose five or six captions of a scene."""
    thing = draws.pick(scene.things)
    plural = "" if len(scene.things) == 1 else "s"
    captions = [
        f"There is a {thing.name} at the {thing.place}.",
        f"A picture of {scene.number} shape{plural}.",
        f"A {thing.name} on a dark ground.",
        f"The {thing.shape} at the {thing.place} is {thing.color}.",
        " and ".join(f"a {each.name}" for each in scene.things).capitalize() + ".",
        f"Something {thing.color} at the {thing.place}.",
    ]
    return draws.some(captions, draws.between(5, 6))
