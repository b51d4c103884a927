"""MIMIC-IT SN: walks through indoor scenes of ScanNet, 16 frames or more each.

Input: `MIMIC-IT/SN/SN_instructions.json` and `MIMIC-IT/SN/SN.json`. Output: one record per scene
and activity, its rounds in the order that the ids give (`SN_INS_scene0000_activity2_round0`). Image
ids of the two files differ in a `_00` after the scene. Of a walk with too many frames for a
dialogue, evenly spaced ones are kept, the first and the last among them.
"""

from __future__ import annotations

import re

from vchat.prep.sources.mimicit.frames import Found, FrameSet, PictureLookup, frame_source
from vchat.prep.sources.mimicit.instructions import Instruction, group_related
from vchat.prep.sources.source import KnownCount

_INSTRUCTION = re.compile(r"(.*)_activity(\d+)_round(\d+)")
_SCENE = re.compile(r"(SN_IMG_scene\d+)(_\d\d)?(_color_\d+)")


def group(entries: list[Instruction]) -> list[list[Instruction]]:
    """Return one group per scene, activity and list of images, with its rounds in order.

    Instructions without such an id are grouped by their relations.
    """
    walks: dict[tuple[object, ...], list[Instruction]] = {}
    others = []
    for entry in entries:
        match = _INSTRUCTION.fullmatch(entry.id)
        if match and entry.image_ids is not None:
            shown = tuple(map(str, entry.image_ids))
            walks.setdefault((match[1], match[2], shown), []).append(entry)
        else:
            others.append(entry)
    return [sorted(walk, key=_round) for walk in walks.values()] + group_related(others)


def _round(entry: Instruction) -> int:
    return int(entry.id.rpartition("round")[2])


def find(index: PictureLookup, image_id: str) -> Found:
    """Find a frame by its id, then with `_00` after the scene, then without."""
    match = _SCENE.fullmatch(image_id)
    key = f"scannet:{match[1]}{match[3]}" if match else f"mimicit:{image_id}"
    if found := index.find(image_id, key=key):
        return found, ""
    if match is None:
        return None, ""
    if found := index.find(f"{match[1]}_00{match[3]}", key=key):
        return found, "scan_inserted"
    return index.find(f"{match[1]}{match[3]}", key=key), "scan_removed"


SOURCE = frame_source(
    FrameSet(name="SN", find=find, group=group),
    about="walks through indoor scenes, 16 frames or more each (6 k)",
    may_leave_out_images=True,
    known_count=KnownCount(number=6_000, of="pairs", is_exact=False),
)
