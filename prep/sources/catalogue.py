"""The data sets that `vchat-prep build --datasets` knows: one file each, one line here each.

Installed packages may add more, see `plugins`.
"""

from __future__ import annotations

from collections.abc import Mapping

from vchat.base.cli import WrongUse
from vchat.base.nearest import did_you_mean
from vchat.prep.sources import aokvqa, coco_caption, minigpt4, ocr_vqa, sparkles_dialogue
from vchat.prep.sources.conversations import llava, llava_dial, llava_mixtures
from vchat.prep.sources.mimicit import cgd, llava_otter_blend, sd, sn, tvc, vst
from vchat.prep.sources.plugins import load_source, plugin_sources
from vchat.prep.sources.source import Source

_ALL = (
    aokvqa.SOURCE,
    coco_caption.SOURCE,
    llava.SOURCE,
    llava_dial.SOURCE,
    llava_otter_blend.SOURCE,
    minigpt4.SOURCE,
    ocr_vqa.SOURCE,
    cgd.SOURCE,
    sd.SOURCE,
    sn.SOURCE,
    tvc.SOURCE,
    vst.SOURCE,
    sparkles_dialogue.SOURCE,
)

SOURCES: Mapping[str, Source] = {
    source.name: source for source in sorted(_ALL, key=lambda s: s.name)
}
"""Name -> source of this package, in alphabetical order."""

MIXTURES: Mapping[str, Source] = {source.name: source for source in llava_mixtures.SOURCES}
"""Larger packagings of data that is partly in `SOURCES` too: a recipe should not use both."""


def source_names() -> list[str]:
    """Return the names of the data sets of this package, then those that plugins add."""
    return list(dict.fromkeys((*SOURCES, *MIXTURES, *plugin_sources())))


def find_source(name: str) -> Source:
    """Return the data set of that name.

    Raises:
        WrongUse: If there is none; suggests the nearest name.
        ValueError: If a plugin adds a name that this package has, or cannot be loaded.
    """
    added = plugin_sources()
    ours = {**SOURCES, **MIXTURES}
    if name in ours:
        if name in added:
            raise ValueError(f"{added[name].value} adds {name!r}, the name of a data set of ours")
        return ours[name]
    if name in added:
        return load_source(added[name])
    suggestion = did_you_mean(name, source_names())
    raise WrongUse(
        f"unknown data set {name!r}; {suggestion} (`vchat-prep sources` lists all;"
        f" name your own data as {name}=FILE)"
    )
