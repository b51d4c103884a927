"""The canonical key of an image that is known only by its path.

Mixtures such as LLaVA-1.5's name images by the folders of their collections; equal photographs
must get equal keys there too, or the split would leak.
"""

from __future__ import annotations

import re

from vchat.prep.raw.identity import normal_path
from vchat.prep.sources import coco

_KNOWN = (
    (re.compile(r"(?:^|/)ocr_vqa/images/([^/]+)\.\w+$", re.IGNORECASE), "ocr_vqa:"),
    (re.compile(r"(?:^|/)vg/VG_100K(?:_2)?/(\d+)\.jpg$"), "vg:"),
    (re.compile(r"(?:^|/)gqa/images/(\d+)\.jpg$"), "vg:"),  # GQA asks about Visual Genome's
)


def key_of_path(path: str) -> str:
    """Return the key of an image of a known collection, else an empty text.

    A conversion names the image then, by its bytes or its path.
    """
    path = normal_path(path)
    number = coco.number_in_path(path)
    if number is not None:
        return coco.key(number)
    for pattern, prefix in _KNOWN:
        if match := pattern.search(path):
            return prefix + match[1]
    return ""
