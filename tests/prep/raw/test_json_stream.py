"""Annotation files are read one value at a time; a damaged one names its byte."""

import json
import math
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vchat.base.json_text import DAMAGED, MAX_DEPTH, MAX_VALUES
from vchat.prep.raw import json_stream
from vchat.prep.raw.json_stream import first_character, items, lines, members
from vchat.prep.raw.rejected import Rejected


def written(folder, data: bytes):
    path = folder / "a.json"
    path.write_bytes(data)
    return path


def in_each_packaging(folder, entries: list[bytes]) -> list[list[object]]:
    """Return the values of entries as an array, as two kinds of object, and as lines."""
    named = b", ".join(b'"%d": ' % number + one for number, one in enumerate(entries))
    listed = b"[" + b",\n".join(entries) + b"]"
    return [
        list(items(written(folder, listed))),
        list(items(written(folder, b'{"meta": [{}], "images": %b}' % listed), "images.item")),
        [value for _, value in members(written(folder, b"{%b}" % named))],
        [value for _, value in members(written(folder, b'{"data": {%b}}' % named), "data")],
        [value for _, value in lines(written(folder, b"\n".join(entries)))],
    ]


ODD = {
    b"-Infinity": -math.inf,
    b"1e999": math.inf,
    b"12345678901234567890123": 12345678901234567890123,
    b"-0.0": -0.0,
    b'"caf\\u00e9 \\ud83d\\ude00"': "caf\u00e9 \U0001f600",
    b'"\\ud83d"': DAMAGED,
    b'"\\udfff red"': f"{DAMAGED} red",
    b'"\\ud83d\\u0041 red"': f"{DAMAGED}A red",
    b'"\\ude00\\ud83d"': DAMAGED * 2,
    b'{"\\ud800": ["\\uDBFF"]}': {DAMAGED: [DAMAGED]},
    b'"\xff\xed\xa0\x80"': DAMAGED * 4,
    b'"a\\u0000b\\n\\"]}"': 'a\x00b\n"]}',
    b'{"a": {}, "b": [[]]}': {"a": {}, "b": [[]]},
}
"""An entry as written -> its value."""


@pytest.mark.parametrize("entry", ODD, ids=ascii)
def test_an_odd_value_is_the_same_in_every_packaging(tmp_path, entry):
    for values in in_each_packaging(tmp_path, [b"{}", entry, b'{"id": 2}']):
        assert values == [{}, ODD[entry], {"id": 2}]
        json.dumps(values, ensure_ascii=False).encode()


def test_nan_is_a_value_in_every_packaging(tmp_path):
    for [value] in in_each_packaging(tmp_path, [b'{"score": NaN}']):
        assert math.isnan(value["score"])


def test_nesting_up_to_the_limit_is_a_value(tmp_path):
    for [value] in in_each_packaging(tmp_path, [b"[" * MAX_DEPTH + b"]" * MAX_DEPTH]):
        assert json.dumps(value) == "[" * MAX_DEPTH + "]" * MAX_DEPTH


BEYOND = {
    "deep arrays": (b"[" * 101 + b"]" * 101, "nested deeper than 100"),
    "deep objects": (b'{"a":' * 101 + b"1" + b"}" * 101, "nested deeper than 100"),
    "very deep": (b'[{"a":' * 50_000 + b"1" + b"}]" * 50_000, "nested deeper than 100"),
    "long integer": (b'{"id": ' + b"9" * 4301 + b"}", "an integer of more than 4300 digits"),
    "many values": (b"[" + b"1," * MAX_VALUES + b"1]", f"more than {MAX_VALUES} values"),
    "a name twice": (b'{"value": 1, "value": 2}', "two members named 'value'"),
}


@pytest.mark.parametrize("kind", BEYOND)
def test_an_entry_beyond_the_limits_is_rejected_and_the_next_one_is_read(tmp_path, kind):
    entry, message = BEYOND[kind]
    for values in in_each_packaging(tmp_path, [b'{"id": 0}', entry, b'{"id": 2}']):
        assert isinstance(values[1], Rejected)
        assert values[1].reason == "bad_row"
        assert message in values[1].detail
        assert "a.json" in values[1].detail
        assert (values[0], values[2]) == ({"id": 0}, {"id": 2})


def test_many_commas_in_a_text_are_not_many_values(tmp_path):
    text = "," * (MAX_VALUES + 1)
    for [value] in in_each_packaging(tmp_path, [json.dumps({"a": text}).encode()]):
        assert value == {"a": text}


@pytest.mark.parametrize("part", [b"[", b'{"a":'])
def test_nesting_without_end_takes_little_memory(tmp_path, part):
    path = written(tmp_path, b"[" + part * 200_000)
    tracemalloc.start()
    with pytest.raises(ValueError, match="the file is truncated"):
        list(items(path))
    assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("read", [items, lambda path: [one for _, one in lines(path)]])
def test_an_entry_longer_than_the_limit_is_an_error(tmp_path, monkeypatch, read):
    monkeypatch.setattr(json_stream, "MAX_ENTRY_BYTES", 1000)
    monkeypatch.setattr(json_stream, "BLOCK_BYTES", 100)
    with pytest.raises(ValueError, match=r"a\.json.* longer than 1000 bytes"):
        list(read(written(tmp_path, b'["' + b"x" * 3000 + b'"]')))


def test_what_is_skipped_may_be_of_any_size(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "MAX_ENTRY_BYTES", 1000)
    monkeypatch.setattr(json_stream, "BLOCK_BYTES", 100)
    other = json.dumps([{"a": [number, "[{"]} for number in range(500)])
    path = written(tmp_path, f'{{"other": {other}, "images": [1], "more": {other}}}'.encode())
    assert list(items(path, "images.item")) == [1]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda some: st.lists(some, max_size=4) | st.dictionaries(st.text(), some, max_size=4),
    max_leaves=12,
)


@given(st.lists(JSON, max_size=4), st.integers(1, 40), st.booleans(), st.sampled_from([None, 0, 2]))
def test_any_block_size_gives_what_json_gives(tmp_path_factory, values, block, ascii_only, indent):
    folder = tmp_path_factory.getbasetemp()
    text = json.dumps(values, ensure_ascii=ascii_only, indent=indent).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "BLOCK_BYTES", block)
        found = list(items(written(folder, text)))
        nested = written(folder, b'{"x": 1, "data": {"a": %b}}' % text)
        named = list(members(nested, "data"))
    assert found == json.loads(text)
    assert named == [("a", json.loads(text))]


@given(st.binary(max_size=30) | st.text('[]{}",:\\u1e-. \n', max_size=30).map(str.encode))
def test_any_bytes_are_values_or_one_error_that_names_the_file(tmp_path_factory, data):
    path = written(tmp_path_factory.getbasetemp(), data)
    for read in (items, members, lines):
        assert error_of(read, path).startswith(("none", str(path)))


def error_of(read, path) -> str:
    try:
        list(read(path))
    except ValueError as err:
        return str(err)
    return "none"


def test_arrays_and_objects_are_read_in_order(tmp_path):
    assert list(items(written(tmp_path, b'[{"a": 1}, 2.5, null]'))) == [{"a": 1}, 2.5, None]
    assert list(members(written(tmp_path, b'{"a": 1, "b": 2, "a": 3}'))) == [
        ("a", 1),
        ("b", 2),
        ("a", 3),
    ]
    assert list(members(written(tmp_path, b'{"meta": 0, "data": {"x": 1}}'), "data")) == [("x", 1)]
    assert list(items(written(tmp_path, b" [ ] "))) == []


def test_a_byte_order_mark_is_skipped(tmp_path):
    path = written(tmp_path, b'\xef\xbb\xbf["a"]')
    assert first_character(path) == "["
    assert list(items(path)) == ["a"]


@pytest.mark.parametrize("split_at", [2**18 - 1, 2**18, 2**18 + 1])
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


@pytest.mark.parametrize(
    "data, message",
    [
        (b"[1 2]", r"byte 3: found '2', wanted ',' or '\]'"),
        (b'[{"id": 1},]', r"byte 11: found '\]', wanted a value"),
        (b'[{"id": 1}, {"id": x}]', "byte 19: Expecting value, found 'x}'"),
        (b'[{"a": [1}}]', r"byte 9: .*found '}}'"),
        (b"[1] [2]", r"byte 4: found '\[', wanted the end of the file"),
    ],
)
def test_what_is_not_json_is_an_error_at_its_byte(tmp_path, data, message):
    with pytest.raises(ValueError, match=rf"a\.json: not valid JSON at {message}"):
        list(items(written(tmp_path, data)))


def test_a_bad_line_names_its_number_and_byte(tmp_path):
    path = written(tmp_path, b'{"a": 1}\n\n{"b": \n')
    with pytest.raises(ValueError, match=r"a\.json:3: not valid JSON \(line at byte 10\)"):
        list(lines(path))


def test_lines_are_numbered_as_an_editor_does(tmp_path):
    assert list(lines(written(tmp_path, b'{"a": 1}\n\n{"b": "\xff"}'))) == [
        (1, {"a": 1}),
        (3, {"b": DAMAGED}),
    ]
