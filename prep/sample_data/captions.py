"""MiniGPT-4's captioned pictures, and Sparkles dialogues about several pictures at a time.

The pictures of SparklesDialogueCC are those of MiniGPT-4, under the same ids; SparklesDialogueVG
has its own. Ids are whole numbers as text, so one can be the beginning of another (`IMAGE#1`,
`IMAGE#14`), as upstream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vchat.prep.sample_data import questions
from vchat.prep.sample_data.draw import draw_picture
from vchat.prep.sample_data.draws import Draws
from vchat.prep.sample_data.world import Scene, draw_scene
from vchat.prep.sample_data.write import write_jpeg, write_json

TAG = "<Img><ImageHere></Img>"
"""Follows the id of an image where a dialogue shows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionedPicture:
    """One picture with its id and its caption."""

    id: str
    scene: Scene
    image: Image.Image

    @property
    def caption(self) -> str:
        """One paragraph about the picture."""
        kind = "shape" if len(self.scene.things) == 1 else "shapes"
        return (
            f"The image shows {self.scene.number} {kind} on a dark ground."
            f" {questions.sentences_about(self.scene)}"
        )

    @property
    def mention(self) -> str:
        """The text by which a dialogue names the picture."""
        return f"IMAGE#{self.id}"


def draw_captioned_pictures(seed: int, stream: str, *, number: int) -> list[CaptionedPicture]:
    """Draw `number` pictures; ids are 1, 2, 3 ..."""
    pictures = []
    for i in range(1, number + 1):
        draws = Draws(seed, stream, i)
        scene = draw_scene(draws, number=draws.between(1, 4))
        pictures.append(CaptionedPicture(id=str(i), scene=scene, image=draw_picture(scene, draws)))
    return pictures


def write_minigpt4(root: Path, pictures: Sequence[CaptionedPicture]) -> None:
    """Write `filter_cap.json` and the pictures."""
    folder = root / "cc_sbu_align"
    for each in pictures:
        write_jpeg(folder / f"image/{each.id}.jpg", each.image)
    annotations = [{"image_id": each.id, "caption": each.caption} for each in pictures]
    write_json(folder / "filter_cap.json", {"annotations": annotations})


def write_sparkles(root: Path, part: str, pictures: Sequence[CaptionedPicture], seed: int) -> None:
    """Write one part of SparklesDialogue: a dialogue for every three pictures, in a drawn order."""
    folder = root / f"sparkles/SparklesDialogue{part}"
    for each in pictures:
        write_jpeg(folder / f"images/{each.id}.jpg", each.image)
    order = Draws(seed, "sparkles", part).shuffle(pictures)
    dialogues = [sparkles_dialogue(order[i : i + 3]) for i in range(0, len(order) - 2, 3)]
    write_json(folder / f"annotations/SparklesDialogue{part}.json", dialogues)


def sparkles_dialogue(pictures: Sequence[CaptionedPicture]) -> dict[str, Any]:
    """Return a dialogue of two rounds: two pictures in the first, one more in the second."""
    one, two, three = pictures
    return {
        "dialogue": [
            {
                "role": "user",
                "content": f"How do {one.mention}{TAG} and {two.mention}{TAG} differ?",
                "images": [image_entry(one), image_entry(two)],
            },
            {
                "role": "assistant",
                "content": f"{one.mention} shows {list_things(one)}, while {two.mention} shows"
                f" {list_things(two)}.",
            },
            {
                "role": "user",
                "content": f"And what does {three.mention}{TAG} show?",
                "images": [image_entry(three)],
            },
            {"role": "assistant", "content": f"{three.mention} shows {list_things(three)}."},
        ],
        "raw": [{"prompt": "Write a dialogue about these pictures.", "response": "Here it is."}],
    }


def image_entry(picture: CaptionedPicture) -> dict[str, Any]:
    """Return the entry of a message for one of its pictures."""
    return {"image_id": picture.id, "caption": picture.caption}


def list_things(picture: CaptionedPicture) -> str:
    """Return the things of a picture, joined by `and`."""
    return " and ".join(f"a {thing.name}" for thing in picture.scene.things)
