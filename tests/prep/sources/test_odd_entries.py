"""One odd entry is one entry rejected, with the same reason in an array and in JSON Lines."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vchat.prep.convert.convert import RESCALED
from vchat.prep.sources.conversations.own import own_source
from vchat_testing.converting import run_source
from vchat_testing.raw_data import sixteen_bit_png, write_image

SURROGATES = ["\\ud83d", "\\udfff red", "\\ud83d\\u0041 red", "\\ude00\\ud83d"]
QUESTION = '{"from": "human", "value": "Q?"}'
GOOD = f'{{"id": "%s", "conversations": [{QUESTION}, {{"from": "gpt", "value": "%s"}}]}}'


def convert(tmp_path: Path, entries: list[str], *, as_array: bool):
    """Return the records and the tally of entries as written."""
    file = tmp_path / "own.json"
    text = f"[{', '.join(entries)}]" if as_array else "\n".join(entries)
    file.write_bytes(text.encode(errors="surrogateescape"))
    return run_source(own_source("own", file), tmp_path, work=tmp_path / f"work{as_array}")


def both(tmp_path: Path, entries: list[str]):
    """Return what an array gives, once it is checked that lines give the same."""
    records, tally = convert(tmp_path, entries, as_array=True)
    others, of_lines = convert(tmp_path, entries, as_array=False)
    assert records == others
    assert tally["rejected_rows"]["counts"] == of_lines["rejected_rows"]["counts"]
    return records, tally


def answer(number: int, text: str) -> str:
    return GOOD % (number, text)


@pytest.mark.parametrize("text", [*SURROGATES, "\udcff"], ids=ascii)
def test_a_text_that_is_not_unicode_costs_its_row(tmp_path, text):
    records, tally = both(tmp_path, [answer(0, "a"), answer(1, text), answer(2, "c")])
    assert [one.record_id for one in records] == ["0", "2"]
    assert tally["rejected_rows"]["counts"] == {"bad_text": 1}
    [example] = tally["rejected_rows"]["examples"]["bad_text"]
    assert example.startswith("1: answer 1 is not valid Unicode")


@pytest.mark.parametrize("text", SURROGATES)
def test_an_id_that_is_not_unicode_costs_its_row(tmp_path, text):
    records, tally = both(tmp_path, [answer(0, "a"), GOOD % (text, "b")])
    assert len(records) == 1
    assert tally["rejected_rows"]["counts"] == {"bad_id": 1}


@pytest.mark.parametrize(
    "value",
    ["NaN", "-Infinity", "1e999", "12345678901234567890123", '"\\ud800"', '{"\\udfff": []}'],
)
def test_a_field_that_nobody_reads_may_hold_anything(tmp_path, value):
    entry = answer(0, "a").replace('{"id"', f'{{"score": {value}, "id"', 1)
    records, tally = both(tmp_path, [entry])
    assert len(records) == 1
    assert not tally["rejected_rows"]["counts"]


@pytest.mark.parametrize(
    "value, reason",
    [
        ("9" * 5000, "bad_row"),
        ("[" * 30_000 + "]" * 30_000, "bad_row"),
        ('1, "score": 2', "bad_row"),
    ],
    ids=["long integer", "deep", "a name twice"],
)
def test_an_entry_beyond_the_limits_costs_its_row(tmp_path, value, reason):
    entry = answer(1, "b").replace('{"id"', f'{{"score": {value}, "id"', 1)
    records, tally = both(tmp_path, [answer(0, "a"), entry, answer(2, "c")])
    assert [one.record_id for one in records] == ["0", "2"]
    assert tally["rejected_rows"]["counts"] == {reason: 1}
    assert "own.json" in tally["rejected_rows"]["examples"][reason][0]


def test_a_text_beyond_the_limit_costs_its_row(tmp_path):
    records, tally = both(tmp_path, [answer(0, "a"), answer(1, "x" * (2**20 + 1))])
    assert len(records) == 1
    assert tally["rejected_rows"]["counts"] == {"too_long": 1}


def test_a_row_of_parquet_that_is_not_unicode_is_rejected_alone(tmp_path):
    turns = [[("human", b"Q?"), ("gpt", text)] for text in (b"a", b"\xff\xfe", b"c")]
    binary = pa.list_(pa.struct([("from", pa.string()), ("value", pa.binary())]))
    rows = [[{"from": role, "value": text} for role, text in pair] for pair in turns]
    column = pa.array(rows, type=binary)
    texts = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
    file = tmp_path / "own.parquet"
    pq.write_table(pa.table({"conversations": column.view(texts)}), file)
    records, tally = run_source(own_source("own", file), tmp_path, work=tmp_path / "work")
    assert [one.rounds[0].answer for one in records] == ["a", "c"]
    assert tally["rejected_rows"]["counts"] == {"bad_text": 1}


def test_a_damaged_parquet_file_is_one_error_that_names_it(tmp_path):
    file = tmp_path / "own.parquet"
    pq.write_table(pa.table({"conversations": [["a"]] * 1000}), file)
    data = bytearray(file.read_bytes())
    for start in range(4, len(data) - 8, 97):
        damaged = data[:start] + b"\xff" * 8 + data[start + 8 :]
        file.write_bytes(damaged)
        assert "own" in error_of(file, work=tmp_path / str(start))


def error_of(file: Path, *, work: Path) -> str:
    try:
        run_source(own_source("own", file), file.parent, work=work)
    except ValueError as err:
        return str(err)
    return "own: none"


def test_a_record_with_a_rescaled_picture_is_marked_and_counted(tmp_path):
    (tmp_path / "deep.png").write_bytes(sixteen_bit_png())
    write_image(tmp_path / "plain.jpg")
    asked = {"from": "human", "value": "<image>\nQ?"}
    entries = [
        json.dumps({"image": name, "conversations": [asked, {"from": "gpt", "value": name}]})
        for name in ("deep.png", "plain.jpg")
    ]
    records, tally = both(tmp_path, entries)
    assert [one.marks for one in records] == [(RESCALED,), ()]
    assert tally["marks"] == {RESCALED: 1}
