"""The data sets whose converter comes later: where their files come from and how they lie.

Listed, so that a user can download them and see the layout; `build` refuses them.
"""

from __future__ import annotations

from vchat.prep.sources import coco
from vchat.prep.sources.mimicit import HOME as MIMICIT
from vchat.prep.sources.mimicit import LICENCE as MIMICIT_LICENCE
from vchat.prep.sources.source import Need, Source


def _mimicit(name: str, about: str) -> Source:
    folder = f"MIMIC-IT/{name}"
    how = f"download it from {MIMICIT} (access on request) and put it in {folder}/"
    return Source(
        name=f"otter_mimicit_{name.lower()}",
        about=about,
        needs=(
            Need(paths=(f"{folder}/{name}_instructions.json",), how=how),
            Need(paths=(f"{folder}/{name}.json",), how=how),
        ),
        licence=MIMICIT_LICENCE,
        rows=None,
    )


def _sparkles_needs(part: str) -> tuple[Need, Need]:
    folder = f"sparkles/SparklesDialogue{part}"
    how = "follow the links of https://github.com/HYPJUDY/Sparkles"
    return (
        Need(paths=(f"{folder}/annotations/SparklesDialogue{part}.json",), how=how),
        Need(paths=(f"{folder}/images/",), how=how),
    )


_AOKVQA = Source(
    name="aokvqa",
    about="a question, its answer and the reasons, about a COCO photograph (17 k)",
    needs=(
        Need(
            paths=("aokvqa/annotations/aokvqa_v1p0_train.json",),
            how="download aokvqa_v1p0.tar.gz from https://allenai.org/project/a-okvqa/home and"
            " unpack it in aokvqa/annotations/",
        ),
        coco.TRAIN_2017,
    ),
    licence=f"Apache-2.0 (annotations); {coco.LICENCE}",
    rows=None,
)

_COCO_CAPTION = Source(
    name="coco_caption",
    about="five or more captions of each COCO photograph, Karpathy split (113 k)",
    needs=(
        Need(
            paths=("coco_caption/dataset.json",),
            how="download coco.zip from https://cs.stanford.edu/people/karpathy/deepimagesent/"
            " and put its dataset.json (elsewhere dataset_coco.json) in coco_caption/",
        ),
        Need(
            paths=("coco/2014/", "coco/train2014/"),
            how="download train2014.zip and val2014.zip from http://images.cocodataset.org/zips/"
            " and unpack both in coco/2014/ (one flat folder) or in coco/",
        ),
    ),
    licence=f"CC BY 4.0 (annotations); {coco.LICENCE}",
    rows=None,
)

_BLEND = Source(
    name="llava_otter_blend",
    about="LLaVA conversations about two photographs, then CGD differences between them",
    needs=(
        Need(paths=("llava/conversation_58k.json",), how="see llava_dial"),
        Need(paths=("MIMIC-IT/CGD/CGD_instructions.json",), how="see otter_mimicit_cgd"),
        coco.TRAIN_2017,
    ),
    licence="as llava, llava_dial and otter_mimicit_cgd",
    rows=None,
)

_MINIGPT4 = Source(
    name="minigpt4",
    about="long descriptions of pictures from Conceptual Captions and SBU (3.4 k)",
    needs=(
        Need(
            paths=("cc_sbu_align/filter_cap.json",),
            how="download cc_sbu_align.zip from"
            " https://huggingface.co/datasets/Vision-CAIR/cc_sbu_align and unpack it",
        ),
        Need(paths=("cc_sbu_align/image/",), how="it is in cc_sbu_align.zip"),
    ),
    licence="BSD-3 (code); images from CC and SBU by their URLs, text generated",
    rows=None,
)

_SPARKLES = Source(
    name="sparkles_dialogue",
    about="dialogues that bring in images in each round, CC and VG (6.5 k)",
    needs=(*_sparkles_needs("CC"), *_sparkles_needs("VG")),
    licence="BSD-3 (code); dialogues under OpenAI's terms of use",
    rows=None,
)

PENDING = (
    _AOKVQA,
    _COCO_CAPTION,
    _BLEND,
    _MINIGPT4,
    _mimicit("SD", "small differences between two frames of a surveillance camera (16 k)"),
    _mimicit("SN", "walks through indoor scenes, many frames each (6 k)"),
    _mimicit("TVC", "frames of television clips (92 k)"),
    _mimicit("VST", "stories about five pictures of an album (33 k)"),
    _SPARKLES,
)
