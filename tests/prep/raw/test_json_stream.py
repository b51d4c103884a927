"""Annotation files are read one value at a time; a damaged one names its byte."""

import pytest

from vchat.prep.raw.json_stream import DAMAGED, first_character, items, lines, members


def written(folder, data: bytes):
    path = folder / "a.json"
    path.write_bytes(data)
    return path


def test_arrays_and_objects_are_read_in_order(tmp_path):
    assert list(items(written(tmp_path, b'[{"a": 1}, 2.5, null]'))) == [{"a": 1}, 2.5, None]
    assert list(members(written(tmp_path, b'{"a": 1, "b": 2, "a": 3}'))) == [
        ("a", 1),
        ("b", 2),
        ("a", 3),
    ]
    assert list(members(written(tmp_path, b'{"meta": 0, "data": {"x": 1}}'), "data")) == [("x", 1)]


def test_a_byte_order_mark_is_skipped(tmp_path):
    path = written(tmp_path, b'\xef\xbb\xbf["a"]')
    assert first_character(path) == "["
    assert list(items(path)) == ["a"]


@pytest.mark.parametrize("split_at", [65535, 65536, 65537])
def test_bytes_that_are_not_utf8_are_marked_and_the_rest_is_kept(tmp_path, split_at):
    padding = b"x" * (split_at - 4)
    path = written(tmp_path, b'["' + padding + "\u00e9".encode() + b'\xff", "b\xc3"]')
    first, second = items(path)
    assert first == padding.decode() + "\u00e9" + DAMAGED
    assert second == f"b{DAMAGED}"


def test_a_truncated_file_names_itself_and_the_byte(tmp_path):
    path = written(tmp_path, b'[{"a": 1}, {"b": ')
    with pytest.raises(ValueError, match=r"a\.json: .*byte 17: the file is truncated"):
        list(items(path))


def test_what_is_not_json_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"a\.json: not valid JSON .*byte 5"):
        list(items(written(tmp_path, b"[1 2]")))


def test_a_bad_line_names_its_number_and_byte(tmp_path):
    path = written(tmp_path, b'{"a": 1}\n\n{"b": \n')
    with pytest.raises(ValueError, match=r"a\.json:3: not valid JSON \(line at byte 10\)"):
        list(lines(path))


def test_lines_are_numbered_as_an_editor_does(tmp_path):
    assert list(lines(written(tmp_path, b'{"a": 1}\n\n{"b": "\xff"}'))) == [
        (1, {"a": 1}),
        (3, {"b": DAMAGED}),
    ]


def test_nesting_without_end_is_an_error_not_a_crash(tmp_path):
    with pytest.raises(ValueError, match="not valid JSON"):
        list(lines(written(tmp_path, b"[" * 200_000)))
