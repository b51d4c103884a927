"""The data sets whose converter comes later: where their files come from and how they lie.

Listed, so that a user can download them and see the layout; `build` refuses them.
"""

from __future__ import annotations

from vchat.prep.sources import coco
from vchat.prep.sources.source import Need, Source

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

PENDING = (_BLEND,)
