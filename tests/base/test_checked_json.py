"""JSON from outside: within bounds, and each wrong value named by its place."""

import pytest

from vchat.base.checked_json import CheckedJson, parse_json


@pytest.mark.parametrize(
    "data, problem",
    [
        (b"[" * 101 + b"]" * 101, "nested too deep, wanted at most 100"),
        (b"[" * 500_000, "nested too deep"),
        (b"NaN", "is not JSON"),
        (b'["\\ud83d"]', "half of a surrogate pair"),
        (b'{"\\ud83d": 1}', "half of a surrogate pair"),
        (b'{"a": 1, "a": 2}', "key 'a' stands twice"),
        (b"\xff", "is not JSON"),
        (b"9" * 5000, "is not JSON"),
    ],
)
def test_what_is_beyond_the_bounds_is_refused_naming_the_file(data, problem):
    with pytest.raises(ValueError, match=f"^here .*{problem}"):
        parse_json(data, name="here")


def test_what_is_within_the_bounds_is_read():
    deep = b"[" * 100 + b"]" * 100
    assert parse_json(b'{"a": "\\ud83d\\ude00", "b": 1.5}', name="x") == {
        "a": "\U0001f600",
        "b": 1.5,
    }
    assert parse_json(deep, name="x") is not None


def test_an_error_names_document_place_found_and_wanted():
    document = CheckedJson({"a": [{"b": True}], "\x1b[31m": 1}, name="here")
    (inner,) = document.member("a").elements()
    with pytest.raises(
        ValueError, match=r"^here: a\[0\]\.b is True, wanted an integer from 0 to 9$"
    ):
        inner.member("b").integer(0, 9)
    with pytest.raises(ValueError, match=r"^here: a\[0\] lacks c$"):
        inner.member("c")
    with pytest.raises(ValueError, match=r"^here: \\x1b\[31m is 1, wanted a string$"):
        document.member("\x1b[31m").text()
    with pytest.raises(ValueError, match=r"^here: the document is .*, wanted an array$"):
        document.elements()
