"""The catalogue: every data set by its name, and a suggestion for a wrong name."""

import pytest

from vchat.base.cli import WrongUse
from vchat.prep.sources.catalogue import SOURCES, find_source


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(WrongUse, match="did you mean 'otter_mimicit_cgd'"):
        find_source("otter_mimic_cgd")


def test_all_thirteen_names_are_listed_with_their_layout():
    names = (
        "aokvqa coco_caption llava llava_dial llava_otter_blend minigpt4 ocr_vqa otter_mimicit_cgd"
        " otter_mimicit_sd otter_mimicit_sn otter_mimicit_tvc otter_mimicit_vst sparkles_dialogue"
    )
    assert list(SOURCES) == names.split()
    assert all(source.needs and source.licence for source in SOURCES.values())
