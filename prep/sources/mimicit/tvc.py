"""MIMIC-IT TVC: frames of television clips (TVQA).

Input: `MIMIC-IT/TVC/TVC_instructions.json` and `MIMIC-IT/TVC/TVC.json`. Output: one record per
group of related instructions. An image id of the instructions names its clip twice, the show
sometimes in one half only; ids of the image file name it once. They match by (show, clip, frame),
or by (clip, frame) where no show is named and only one show has that clip.
"""

from __future__ import annotations

import re

from vchat.prep.sources.mimicit.frames import Found, FrameSet, PictureLookup, frame_source
from vchat.prep.sources.source import KnownCount

_CLIP = re.compile(r"(?:([A-Za-z]+)_)?(s\d+e\d+_seg\d+_clip_\d+)_")
_FRAME = re.compile(r"_(\d+)$")
PREFIX = "TVC_IMG_"


def show_clip_frame(image_id: str) -> tuple[str, str, int] | None:
    """Return the show (empty if not named), the clip and the frame; None if malformed."""
    inside = image_id.removeprefix(PREFIX)
    clips, frame = _CLIP.findall(inside), _FRAME.search(inside)
    if not clips or frame is None or len({clip for _, clip in clips}) != 1:
        return None
    return next((show for show, _ in clips if show), ""), clips[0][1], int(frame[1])


def names(image_id: str) -> tuple[str, ...]:
    """Return the names by which the index knows a frame of the image file."""
    parts = show_clip_frame(image_id)
    if parts is None:
        return (image_id,)
    show, clip, frame = parts
    return image_id, f"{show}/{clip}/{frame}", f"any/{clip}/{frame}"


def find(index: PictureLookup, image_id: str) -> Found:
    """Find a frame by its id as written, then by what the id names."""
    parts = show_clip_frame(image_id)
    if parts is None:
        return index.find(image_id, key=f"mimicit:{image_id}"), ""
    show, clip, frame = parts
    key = f"tvqa:{show}/{clip}/{frame}"
    if found := index.find(image_id, key=key):
        return found, ""
    if found := index.find(f"{show}/{clip}/{frame}", key=key):
        return found, "clip_doubled"
    return index.find(f"any/{clip}/{frame}", key=key, unique=True), "show_missing"


SOURCE = frame_source(
    FrameSet(name="TVC", names=names, find=find),
    about="frames of television clips (92 k)",
    known_count=KnownCount(number=92_000, of="pairs", is_exact=False),
)
