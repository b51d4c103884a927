"""MIMIC-IT VST: stories about five pictures of an album.

Input: `MIMIC-IT/VST/VST_instructions.json` and `MIMIC-IT/VST/VST.json`. Output: one record per
group of related instructions. Upstream lacks pictures that could not be fetched any more; a record
that shows one is rejected.
"""

from __future__ import annotations

from vchat.prep.sources.mimicit.frames import Found, FrameSet, PictureLookup, frame_source
from vchat.prep.sources.source import KnownCount

PREFIX = "VST_IMG_"


def find(index: PictureLookup, image_id: str) -> Found:
    """Find a picture; its id holds its Flickr number."""
    return index.find(image_id, key=f"flickr:{image_id.removeprefix(PREFIX)}"), ""


SOURCE = frame_source(
    FrameSet(name="VST", find=find),
    about="stories about five pictures of an album (33 k)",
    known_count=KnownCount(number=33_000, of="pairs", is_exact=False),
)
