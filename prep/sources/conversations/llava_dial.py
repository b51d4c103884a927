"""LLaVA-Instruct conversations: several rounds about one COCO photograph.

Input: `llava/conversation_58k.json`, images in `coco/train2017/`. Output: one record per entry.
"""

from __future__ import annotations

from functools import partial

from vchat.prep.sources import coco
from vchat.prep.sources.conversations.llava import LICENCE, file_need, read_file_entries
from vchat.prep.sources.source import KnownCount, Source

FILE = file_need("conversation_58k.json")

SOURCE = Source(
    name="llava_dial",
    about="dialogues of about 4.5 rounds about a COCO photograph (58 k)",
    needs=(FILE, coco.TRAIN_2017),
    licence=LICENCE,
    read_entries=partial(read_file_entries, source="llava_dial", file=FILE.paths[0]),
    known_count=KnownCount(number=56_681, of="rows"),
)
