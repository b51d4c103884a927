"""Pictures inside a large JSON file are found by byte offset, without parsing it."""

import base64
import json

import pytest

from vchat.prep.raw import base64_json
from vchat.prep.raw.base64_json import decode_value, value_spans
from vchat.prep.raw.image_files import ImageFiles
from vchat.prep.raw.picture_index import PictureIndex
from vchat.prep.raw.rejected import Rejected


def written(folder, text):
    path = folder / "X.json"
    path.write_text(text)
    return path


@pytest.mark.parametrize("block", [1, 7, 64, 4096])
@pytest.mark.parametrize("indent", [None, 2])
def test_every_value_is_found_whatever_the_block_size(tmp_path, monkeypatch, block, indent):
    monkeypatch.setattr(base64_json, "BLOCK_BYTES", block)
    wanted = {f"IMG_{i}": base64.b64encode(bytes([i]) * i).decode() for i in range(20)}
    wanted['with "quotes" \u00e9'] = "QUJD"
    path = written(tmp_path, json.dumps(wanted, indent=indent))
    data = path.read_bytes()
    found = {name: data[at.offset : at.offset + at.size].decode() for name, at in value_spans(path)}
    assert found == wanted


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"a": "QUJD", "b": "QU', "the file is truncated"),
        ('{"a": "QUJD"', "not closed"),
        ('{"a": "QUJD", "b": null, "c": "QUJD"}', "only the name of a text may follow"),
        ('{"a": {"b": "QUJD"}}', "only the name of a text may follow"),
        ('["QUJD", "QUJD"]', "not an object of base64 texts"),
        ("", "not closed"),
    ],
)
def test_a_file_other_than_a_complete_object_of_texts_is_an_error(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        list(value_spans(written(tmp_path, text)))


def test_both_alphabets_line_breaks_and_missing_padding_are_accepted():
    data = bytes(range(251, 256)) * 3 + b"x"
    standard = base64.b64encode(data)
    assert decode_value(standard, name="a") == data
    assert decode_value(base64.urlsafe_b64encode(data).rstrip(b"="), name="a") == data
    assert decode_value(standard[:8] + rb"\n" + standard[8:], name="a") == data
    assert decode_value(standard.replace(b"/", rb"\/"), name="a") == data
    assert decode_value(b"data:image/png;base64," + standard, name="a") == data


def test_any_other_character_is_rejected():
    with pytest.raises(Rejected, match="undecodable_image: a: not base64"):
        decode_value(b"QU JD!", name="a")


def test_a_picture_is_found_by_its_name_and_read(tmp_path):
    texts = {"a": "QUJD", "b": "REVG", "c": "R0hJ"}
    path = written(tmp_path, json.dumps(texts))
    index = PictureIndex(tmp_path, [path], names=lambda name: (name, "any"))
    files = ImageFiles([tmp_path])
    assert files.read(index.find("b", key="k")) == b"DEF"
    assert index.find("d", key="k") is None
    assert files.read(index.find("any", key="k")) == b"ABC"
    assert index.find("any", key="k", unique=True) is None


def test_a_name_that_is_not_unicode_equals_no_id(tmp_path):
    path = tmp_path / "X.json"
    path.write_bytes(b'{"a\xff": "QUJD", "b\\ud800": "QUJD", "c": "QUJD"}')
    names = [name for name, _ in value_spans(path)]
    assert names == ["a\ufdd0", "b\ufdd0", "c"]
    assert PictureIndex(tmp_path, [path], names=lambda name: (name,)).find("c", key="k")


def test_a_name_that_is_not_json_is_an_error_naming_the_byte(tmp_path):
    with pytest.raises(ValueError, match=r"X\.json: not valid JSON at byte 14"):
        list(value_spans(written(tmp_path, r'{"a": "QUJD", "\x": "QUJD"}')))
