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

PENDING = (
    _BLEND,
    _mimicit("SD", "small differences between two frames of a surveillance camera (16 k)"),
    _mimicit("SN", "walks through indoor scenes, many frames each (6 k)"),
    _mimicit("TVC", "frames of television clips (92 k)"),
    _mimicit("VST", "stories about five pictures of an album (33 k)"),
)
