"""OCR-VQA in both packagings: entries read = records + rejected entries, by expected reasons."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vchat.prep.raw.image_files import ImageFiles
from vchat.prep.sources.catalogue import SOURCES
from vchat_testing.converting import examine, expect, expected, run_source
from vchat_testing.raw_data import IMAGES, write_image, write_json


def json_book(**changed):
    good = {"imageURL": "http://x/1.jpg", "questions": ["Who?", "What?"], "answers": ["A", "B"]}
    return {**good, "title": "B", "split": 1, **changed}


OCR_BOOKS = {
    "0000000001": (json_book(), None),
    "000000002X": (json_book(imageURL="http://x/1.gif"), None),
    "0000000003": (json_book(answers=["", "B"]), None),
    "0000000004": (json_book(answers=["", None]), "empty_text"),
    "0000000005": (json_book(split=2), "wrong_split"),
    "0000000006": (json_book(split=3), "wrong_split"),
    "0000000007": (json_book(), "tiny_image"),
    "0000000008": (json_book(), "missing_image"),
    "0000000009": (json_book(answers=["A"]), "bad_row"),
    "0000000010": (json_book(questions="Who?"), "bad_row"),
    "0000000011": ("no object", "bad_row"),
    "../0000001": (json_book(), "missing_image"),
    "0000000012": (json_book(answers=["A", 1998]), None),
    "0000000013": (json_book(questions=["Who?", ["list"]]), "bad_row"),
}


def test_ocr_vqa(tmp_path):
    folder = tmp_path / "OCR_VQA/images"
    for number, name in enumerate(OCR_BOOKS):
        if OCR_BOOKS[name][1] != "missing_image":
            write_image(folder / f"{name}.jpg", "gif" if number % 2 else "good", number=number)
    write_image(folder / "0000000007.jpg", "tiny")
    write_image(folder / "000000002X.gif", "gif")
    write_json(tmp_path / "OCR_VQA/dataset.json", {key: one for key, (one, _) in OCR_BOOKS.items()})
    records, tally = run_source(SOURCES["ocr_vqa"], tmp_path, work=tmp_path / "work")
    count, rows = expected(list(OCR_BOOKS.values()))
    expect(tally, records=count, rows=rows, pairs={"empty_text": 1})
    assert [record.record_id for record in records][:2] == ["0000000001", "000000002X"]
    assert records[1].images[0].file == "OCR_VQA/images/000000002X.gif"
    assert [round_.answer for round_ in records[2].rounds] == ["B"]
    assert len(records[2].rounds[0].images) == 1
    assert records[3].rounds[1].answer == "1998"


PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TEXTS = pa.list_(pa.string())
BOOKS = pa.schema(
    [
        ("image", PICTURE),
        ("image_id", pa.string()),
        ("questions", TEXTS),
        ("answers", TEXTS),
        ("ocr_tokens", TEXTS),
        ("title", pa.string()),
        ("image_width", pa.int32()),
        ("image_url", pa.string()),
        ("set_name", pa.string()),
    ]
)


def picture(kind: str = "good", number: int = 0, path: str | None = None) -> dict:
    return {"bytes": IMAGES[kind](number), "path": path}


def book(image_id: str | None, **changed: object) -> dict:
    good = {
        "image": picture(),
        "image_id": image_id,
        "questions": ["Who?", "What?"],
        "answers": ["A", "B"],
        "ocr_tokens": ["A"],
        "title": "B",
        "image_width": 20,
        "image_url": "http://x/1.jpg",
        "set_name": "train",
    }
    return {**good, **changed}


def write_books(folder: Path) -> None:
    """Write 13 books in two splits, of which three can be used; and a file of something else."""
    train = [
        book("0000000001"),
        book("000000002X", image=picture("gif", 2), set_name=None),
        book("0000000003", answers=["", "B"]),
        book("0000000004", answers=["", None]),
        book("0000000005", set_name="test"),
        book("0000000006", image=picture("tiny")),
        book("0000000007", image=None),
        book("0000000008", image=picture("text")),
        book("0000000009", answers=["A"]),
        book("0000000010", questions=None),
        book(None),
        book("0000000001"),
    ]
    folder.mkdir(parents=True)
    names = {"train-00000-of-00001": train, "validation-00000-of-00001": [book("9", set_name="")]}
    for name, rows in names.items():
        table = pa.Table.from_pylist(rows, schema=BOOKS)
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=5)
    pq.write_table(pa.table({"image": [b"x"], "id": ["x"]}), folder / "train-other.parquet")


def test_ocr_vqa_in_parquet_keeps_the_training_split_and_reads_covers_in_place(tmp_path):
    write_books(tmp_path / "OCR_VQA/data")
    records, tally = run_source(SOURCES["ocr_vqa"], tmp_path, work=tmp_path / "work")
    rejected = {
        "bad_id": 1,
        "bad_row": 2,
        "duplicate": 1,
        "empty_text": 1,
        "missing_image": 1,
        "tiny_image": 1,
        "undecodable_image": 1,
        "wrong_split": 2,
    }
    expect(tally, records=3, rows=rejected, pairs={"empty_text": 1})
    assert [record.key for record in records] == [
        "ocr_vqa/0000000001",
        "ocr_vqa/000000002X",
        "ocr_vqa/0000000003",
    ]
    assert records[1].images[0].key == "ocr_vqa:000000002X"
    assert ImageFiles([tmp_path]).read(records[1].images[0]) == IMAGES["gif"](2)
    assert [round_.answer for round_ in records[2].rounds] == ["B"]


def test_doctor_finds_ocr_vqa_in_parquet_and_counts_its_books(tmp_path):
    write_books(tmp_path / "OCR_VQA/data")
    (tmp_path / "OCR_VQA/data/train-other.parquet").unlink()
    found = examine("ocr_vqa", tmp_path)
    assert (found.status, found.num_entries, found.trial.num_records) == ("ready", 13, 4)
    assert [need.packaging for need in found.needs] == ["Parquet", "Parquet"]
