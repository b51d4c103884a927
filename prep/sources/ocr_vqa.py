"""OCR-VQA: questions about book covers, one image and about five questions each.

Input: `OCR_VQA/dataset.json` (book id -> questions, answers, split) and `OCR_VQA/images/<book id>`
with any extension; or, without that file, the hub's Parquet files in `OCR_VQA/`, whose entries
hold their covers. Output: one record per book of the training split, or of the splits that a recipe
names; its pairs become its rounds, the cover shown in the first. A pair with an empty text is left
out, the book's others stay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from vchat.prep.raw.archives import file_names
from vchat.prep.raw.data_path import DataPath, find_files, path_below
from vchat.prep.raw.json_stream import members
from vchat.prep.raw.parquet_cells import column_names, has_pictures, read_schema
from vchat.prep.raw.rejected import Rejected
from vchat.prep.sources.entry_files import Cell, read_raw_entries
from vchat.prep.sources.source import Converted, Entry, KnownCount, Need, Source
from vchat.prep.sources.texts import file_id, require_object, rounds_sharing_images
from vchat.shards.format.record import ImageRef, Record

FILE = "OCR_VQA/dataset.json"
FOLDER = "OCR_VQA/images"
PARQUET = "OCR_VQA/**/*.parquet"
SPLITS = ("train", "validation", "test")
"""In JSON `split` is 1, 2 or 3; in Parquet the name is `set_name`, or begins the file name."""

TRAIN = SPLITS[:1]
LICENCE = "for research use; covers belong to their publishers"

_COLUMNS = {"image", "image_id", "questions", "answers"}
"""Columns by which a Parquet file of books is recognised."""


def read_entries(data: DataPath, *, splits: tuple[str, ...] = TRAIN) -> Iterator[Entry]:
    """Yield every book, in file order: of the JSON file if it exists, else of Parquet."""
    if not (data / FILE).is_file():
        yield from _parquet_entries(data, splits=splits)
        return
    covers = list_covers(data / FOLDER)
    for book_id, book in members(data / FILE):
        cover_of = partial(_cover, book_id=book_id, covers=covers)
        convert = partial(_json_record, book, book_id, splits=splits, file=FILE, cover_of=cover_of)
        yield Entry(id=book_id, num_pairs=_num_answers(book), convert=convert)


def _parquet_entries(data: DataPath, *, splits: tuple[str, ...]) -> Iterator[Entry]:
    """Yield the books of every Parquet file that holds books, whatever its name."""
    for path in find_files(data, PARQUET):
        if not _holds_books(path):
            continue
        file = path_below(path, data)
        for number, entry in read_raw_entries(path):
            entry_id = _parquet_id(entry, number)
            convert = partial(_parquet_record, entry, splits=splits, file=file)
            yield Entry(id=entry_id, num_pairs=_num_answers(entry), convert=convert)


def _parquet_id(entry: Any, number: int) -> str:
    book_id = entry.get("image_id") if isinstance(entry, Mapping) else None
    return str(number) if book_id is None else str(book_id)


def _holds_books(path: DataPath) -> bool:
    if not set(column_names(path)) >= _COLUMNS:
        return False
    return has_pictures(read_schema(path), "image")


def _parquet_record(entry: Any, *, splits: tuple[str, ...], file: str) -> Converted:
    """Turn an entry of Parquet into a record.

    Raises:
        Rejected: `wrong_split`, `bad_id`, and those of `to_record`.
    """
    entry = require_object(entry)
    split = entry.get("set_name") or file.rpartition("/")[2].partition("-")[0].partition(".")[0]
    _check_split(split, split, splits=splits)
    book_id = file_id(entry["image_id"], what="image_id")
    cover_of = partial(_cover_in_entry, book_id=book_id, file=file)
    return to_record(entry, book_id, file=file, cover_of=cover_of)


def _check_split(name: Any, written: Any, *, splits: tuple[str, ...]) -> None:
    if name not in splits:
        raise Rejected("wrong_split", f"split is {written!r}, not {' or '.join(splits)}")


def _cover_in_entry(entry: Mapping[str, Any], *, book_id: str, file: str) -> ImageRef:
    if not isinstance(entry["image"], Cell):
        raise Rejected("missing_image", f"{book_id} of {file} has no picture")
    return ImageRef(key=f"ocr_vqa:{book_id}", file=file, member=entry["image"].member)


def list_covers(folder: DataPath) -> dict[str, tuple[str, ...]]:
    """Return book id -> names of its files, from one listing of the folder."""
    covers: dict[str, tuple[str, ...]] = {}
    for name in file_names(folder):
        book_id = name.rpartition(".")[0]
        covers[book_id] = (*covers.get(book_id, ()), name)
    return covers


def _json_record(
    book: Any,
    book_id: str,
    *,
    splits: tuple[str, ...],
    file: str,
    cover_of: Callable[[Mapping[str, Any]], ImageRef],
) -> Converted:
    """Turn a book of the JSON file into a record; raises `wrong_split` and as `to_record`."""
    book = require_object(book)
    written = book.get("split")
    named = dict(enumerate(SPLITS, start=1))
    _check_split(named.get(written) if isinstance(written, int) else None, written, splits=splits)
    return to_record(book, book_id, file=file, cover_of=cover_of)


def to_record(
    book: Mapping[str, Any],
    book_id: str,
    *,
    file: str,
    cover_of: Callable[[Mapping[str, Any]], ImageRef],
) -> Converted:
    """Turn one book into one record.

    Args:
        cover_of: Returns a reference to the cover of a book, or raises `Rejected`.

    Raises:
        Rejected: `bad_row`, `missing_image`, `bad_text`, or `empty_text` if no pair is left.
    """
    pairs = _pairs(book)
    rounds, rejected_pairs = rounds_sharing_images(pairs, [cover_of(book)])
    record = Record(
        key=f"ocr_vqa/{book_id}",
        source="ocr_vqa",
        rounds=rounds,
        licence=LICENCE,
        file=file,
        record_id=book_id,
    )
    return Converted(record=record, rejected_pairs=rejected_pairs)


def _num_answers(book: Any) -> int:
    answers = book.get("answers") if isinstance(book, Mapping) else None
    return len(answers) if isinstance(answers, list) else 0


def _pairs(book: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    questions, answers = book.get("questions"), book.get("answers")
    if not isinstance(questions, list) or not isinstance(answers, list):
        raise Rejected("bad_row", "`questions` or `answers` is not a list")
    if len(questions) != len(answers):
        raise Rejected("bad_row", f"{len(questions)} questions but {len(answers)} answers")
    return list(zip(map(_as_text, questions), map(_as_text, answers), strict=True))


def _as_text(value: Any) -> Any:
    """Return a value as text: a missing author is null or NaN, a year may be a number."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number else value


def _cover(
    book: Mapping[str, Any], *, book_id: str, covers: Mapping[str, tuple[str, ...]]
) -> ImageRef:
    """Return the book's cover; of several files, the one with the extension of `imageURL`."""
    names = covers.get(book_id)
    if not names:
        raise Rejected("missing_image", f"no {FOLDER}/{book_id}.*")
    extension = str(book.get("imageURL", "")).rpartition(".")[2].lower()
    fitting = [name for name in names if name.lower().endswith(f".{extension}")]
    return ImageRef(key=f"ocr_vqa:{book_id}", file=f"{FOLDER}/{(fitting or names)[0]}")


def of_splits(splits: tuple[str, ...]) -> Source:
    """Return the source that uses the books of some of `SPLITS`."""
    return replace(SOURCE, read_entries=partial(read_entries, splits=splits), splits=splits)


SOURCE = Source(
    name="ocr_vqa",
    about="about five questions on a book cover's title, author, genre, year (207 k covers)",
    needs=(
        Need(
            paths=(FILE, PARQUET),
            how="download dataset.json from https://ocr-vqa.github.io/ and put it in OCR_VQA/ of"
            " the data folder (or put the Parquet files of"
            " https://huggingface.co/datasets/howard-hou/OCR-VQA there: they hold the covers too)",
        ),
        Need(
            paths=(f"{FOLDER}/", PARQUET),
            how="fetch the covers with the script from https://ocr-vqa.github.io/ (or take a"
            " mirror) and put them in OCR_VQA/images/ of the data folder",
            is_images=True,
        ),
    ),
    licence=LICENCE,
    read_entries=read_entries,
    splits=TRAIN,
    all_splits=SPLITS,
    of_splits=of_splits,
    known_count=KnownCount(number=207_572, of="rows"),
)
