"""The data sets that `vchat-prep build --datasets` knows: one file each, one line here each."""

from __future__ import annotations

from collections.abc import Mapping

from vchat.prep.sources import llava, llava_dial, ocr_vqa, otter_mimicit_cgd
from vchat.prep.sources.pending import PENDING
from vchat.prep.sources.source import Source

_ALL = (
    llava.SOURCE,
    llava_dial.SOURCE,
    ocr_vqa.SOURCE,
    otter_mimicit_cgd.SOURCE,
    *PENDING,
)

SOURCES: Mapping[str, Source] = {
    source.name: source for source in sorted(_ALL, key=lambda s: s.name)
}
"""Name -> source, in alphabetical order."""
