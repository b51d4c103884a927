"""A base64 JSON is scanned once: the result is stored beside the work files."""

import json
import os

import pytest

from vchat.prep.convert.convert import ImageLimits, convert_source
from vchat.prep.raw import base64_json, offset_index
from vchat.prep.raw.image_files import ImageFiles
from vchat.prep.raw.offset_index import load_value_spans
from vchat.prep.sources.catalogue import SOURCES
from vchat.prep.sources.mimicit import cgd
from vchat_testing.converting import run_source
from vchat_testing.mimicit_data import entry, picture, sd, write_set

SD = SOURCES["otter_mimicit_sd"]


@pytest.fixture
def scans(monkeypatch):
    """The names of the files that were scanned."""
    made = []

    def counted(path):
        made.append(path.name)
        return base64_json.value_spans(path)

    monkeypatch.setattr(offset_index, "value_spans", counted)
    return made


def write_pairs(data, *, count=4):
    images = {
        sd(number, side): picture(number=number) for number in range(count) for side in (1, 2)
    }
    entries = {f"SD_INS_{n}": entry(sd(n, 1), sd(n, 2)) for n in range(count)}
    write_set(data, "SD", entries, images)


def test_a_conversion_that_is_killed_after_the_scan_does_not_repeat_it(tmp_path, scans):
    write_pairs(tmp_path / "data")
    rows = 0

    def killed():
        nonlocal rows
        rows += 1
        if rows == 3:
            raise KeyboardInterrupt

    images = ImageFiles([tmp_path / "data"])
    with pytest.raises(KeyboardInterrupt):
        convert_source(
            SD,
            data=tmp_path / "data",
            images=images,
            work=tmp_path / "work",
            limits=ImageLimits(image_size=224),
            on_entry=killed,
        )
    assert not list((tmp_path / "work").glob("otter_mimicit_sd-*.json"))
    records, _ = run_source(SD, tmp_path / "data", work=tmp_path / "work")
    assert scans == ["SD.json"]
    assert records == run_source(SD, tmp_path / "data", work=tmp_path / "other")[0]


def test_a_scan_that_is_killed_leaves_no_index(tmp_path, monkeypatch):
    path = tmp_path / "X.json"
    path.write_text(json.dumps({"a": "QUJD", "b": "REVG"}))
    monkeypatch.setattr(offset_index, "VALUES_PER_GROUP", 1)

    def cut_off(path):
        yield next(base64_json.value_spans(path))
        raise KeyboardInterrupt

    monkeypatch.setattr(offset_index, "value_spans", cut_off)
    with pytest.raises(KeyboardInterrupt):
        list(load_value_spans(path, tmp_path / "work"))
    assert not list((tmp_path / "work").iterdir())
    monkeypatch.undo()
    assert [name for name, _ in load_value_spans(path, tmp_path / "work")] == ["a", "b"]


def size(path):
    path.write_text(path.read_text()[:-1] + ' , "c": "R0hJ"}')


def time(path):
    os.utime(path, ns=(0, 0))


def content(path):
    before = path.stat()
    path.write_text(path.read_text().replace('"b"', '"c"'))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [size, time, content], ids=lambda change: change.__name__)
def test_a_changed_file_is_scanned_again(tmp_path, scans, change):
    path = tmp_path / "X.json"
    path.write_text('{"a": "QUJD", "b": "REVG"}')
    found = [list(load_value_spans(path, tmp_path / "work")) for _ in range(2)]
    assert found[0] == found[1] == list(base64_json.value_spans(path))
    assert scans == ["X.json"]
    change(path)
    assert list(load_value_spans(path, tmp_path / "work")) == list(base64_json.value_spans(path))
    assert scans == ["X.json"] * 2


def test_cgd_stores_its_scan_too(tmp_path, scans):
    images = {f"CGD_IMG_{number:012d}": picture(number=number) for number in (1, 2)}
    write_set(tmp_path / "data", "CGD", {"CGD_INS_1": entry(*images)}, images)
    for work in ("a", "a", "b"):
        rows = list(cgd.SOURCE.read(tmp_path / "data", index_folder=tmp_path / work))
        assert rows[0].convert().record.images[1].offset > 0
    assert scans == ["CGD.json"] * 2
