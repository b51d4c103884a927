"""Staged records come back by row number, however they are asked for."""

from __future__ import annotations

from vchat.prep.convert.staged import (
    ROWS_PER_GROUP,
    RecordFile,
    row_from_record,
    write_record_file,
    write_staged,
)
from vchat.shards.format.record import ImageRef, Record, Round


def record(number: int) -> Record:
    """Return a record that differs from all others, with none to two images."""
    images = tuple(ImageRef(key=f"k{number}.{i}", file="x.jpg") for i in range(number % 3))
    shown = Round(images=images, question=f"q{number}", answer="a")
    names = {"licence": "l", "file": "f.json", "record_id": str(number)}
    marks = ("resampled_224",) * (number % 2)
    return Record(key=f"s/{number}", source="s", rounds=(shown,), marks=marks, **names)


def test_records_come_in_the_order_in_which_they_are_asked_for(tmp_path):
    all_records = [record(number) for number in range(2 * ROWS_PER_GROUP + 5)]
    rows = (
        row_from_record(one, sizes=[(4, 4)] * len(one.images), image_bytes=9) for one in all_records
    )
    write_staged(tmp_path / "s.parquet", rows)
    write_record_file(tmp_path / "s.parquet", tmp_path / "s.arrow")
    wanted = [len(all_records) - 1, 3, ROWS_PER_GROUP, ROWS_PER_GROUP - 1, 3, 0]
    with RecordFile(tmp_path / "s.arrow") as file:
        assert len(file) == len(all_records)
        assert file.records(wanted) == [all_records[row] for row in wanted]
        assert file.records([]) == []
