"""A sample carries the marks of its records, and the report counts them."""

import base64
import json
from pathlib import Path

import pytest

from vchat.prep.convert.recipe import Recipe, SourceChoice
from vchat.prep.pipeline.build import build_shards
from vchat.shards.format.open_shards import open_shards
from vchat.shards.format.sample import decode_sample, encode_sample
from vchat_testing.raw_data import draw_picture, encode_picture, write_json
from vchat_testing.toy import toy_tokenizer


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """A build of one SN walk of 16 frames, at most 4 of them shown."""
    folder = tmp_path_factory.mktemp("walk")
    names = [f"SN_IMG_scene0000_00_color_{100 * frame:06d}" for frame in range(16)]
    text = {"instruction": "Where?", "answer": "Ahead.", "image_ids": names, "rel_ins_ids": []}
    sn = folder / "data/MIMIC-IT/SN"
    write_json(sn / "SN_instructions.json", {"data": {"SN_INS_s_activity0_round0": text}})
    pictures = [
        base64.b64encode(encode_picture(draw_picture(number), "PNG")).decode()
        for number in range(16)
    ]
    write_json(sn / "SN.json", dict(zip(names, pictures, strict=True)))
    toy_tokenizer(folder / "tokenizer")
    source = (SourceChoice(name="otter_mimicit_sn"),)
    places = {name: str(folder / name) for name in ("data", "tokenizer", "out")}
    return build_shards(Recipe(source=source, max_images=4, eval_fraction=0, **places))


def test_a_sample_carries_the_marks_of_its_records(walk):
    shards = open_shards(walk.out)
    sample = shards.read_sample(0)
    assert [image.key[-6:] for image in sample.images] == ["000000", "000500", "001000", "001500"]
    assert sample.records[0].marks == ("resampled_224", "subsampled_from_16")
    stored = dict(encode_sample(sample))
    assert json.loads(stored["json"])["records"][0]["marks"] == list(sample.records[0].marks)


def test_a_record_without_marks_is_stored_as_ever(walk):
    shards = open_shards(walk.out)
    stored = shards.read_members(shards.index().to_pylist()[0])
    described = json.loads(stored["json"])
    del described["records"][0]["marks"]
    stored["json"] = json.dumps(described).encode()
    plain = decode_sample(stored, name="plain")
    assert plain.records[0].marks == ()
    assert "marks" not in json.loads(dict(encode_sample(plain))["json"])["records"][0]


def test_the_report_counts_marks(walk):
    marks = walk.report["sources"]["otter_mimicit_sn"]["converted"]["marks"]
    assert marks == {"resampled_224": 1, "subsampled_from_16": 1}
    assert "subsampled_from_16" in (Path(walk.out) / "report.html").read_text()
