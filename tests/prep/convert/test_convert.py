"""Conversion of a source: its records are reused until an input changes."""

from vchat.prep.convert.convert import ImageLimits, convert_source
from vchat.prep.raw.image_files import ImageFiles
from vchat.prep.sources.catalogue import SOURCES
from vchat_testing.converting import expect, run_source
from vchat_testing.raw_data import good_llava_row, write_coco, write_json


def test_records_are_reused_until_an_input_changes(tmp_path):
    write_coco(tmp_path, {1: "good"})
    path = tmp_path / "llava/conversation_58k.json"
    write_json(path, [good_llava_row(1)])
    rows_read = []
    for _ in range(2):
        images = ImageFiles([tmp_path])
        count = lambda: rows_read.append(1)  # noqa: E731
        convert_source(
            SOURCES["llava_dial"],
            data=tmp_path,
            images=images,
            work=tmp_path / "w",
            limits=ImageLimits(image_size=224),
            on_entry=count,
        )
    assert len(rows_read) == 1
    write_json(path, [good_llava_row(1), good_llava_row(2)])
    _, tally = run_source(SOURCES["llava_dial"], tmp_path, work=tmp_path / "w")
    expect(tally, records=1, rows={"missing_image": 1})
