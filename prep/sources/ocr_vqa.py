"""OCR-VQA: questions about book covers, one image and about five questions each.

Input: `OCR_VQA/dataset.json` (book id -> questions, answers, split) and `OCR_VQA/images/<book id>`
with any extension. Output: one record per book of the training split; its pairs become its rounds,
the cover shown in the first. A pair with an empty text is left out, the book's others stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from vchat.prep.archives import file_names
from vchat.prep.data_path import DataPath
from vchat.prep.json_stream import members
from vchat.prep.rejected import Rejected
from vchat.prep.sources.source import Converted, KnownCount, Need, Row, Source
from vchat.prep.sources.texts import filled_rounds
from vchat.shards.dialogue import ImageRef, Record

FILE = "OCR_VQA/dataset.json"
FOLDER = "OCR_VQA/images"
TRAIN = 1
"""Value of `split`; 2 is validation and 3 is test."""


def rows(data: DataPath) -> Iterator[Row]:
    """Yield every book, in file order."""
    covers = covers_in(data / FOLDER)
    for book_id, book in members(data / FILE):
        convert = partial(to_record, book, book_id, covers=covers)
        yield Row(id=book_id, num_pairs=_num_answers(book), convert=convert)


def covers_in(folder: DataPath) -> dict[str, tuple[str, ...]]:
    """Return book id -> names of its files, from one look at the folder."""
    covers: dict[str, tuple[str, ...]] = {}
    for name in file_names(folder):
        book_id = name.rpartition(".")[0]
        covers[book_id] = (*covers.get(book_id, ()), name)
    return covers


def to_record(book: Any, book_id: str, *, covers: Mapping[str, tuple[str, ...]]) -> Converted:
    """Turn one book into one record.

    Raises:
        Rejected: `bad_row`, `wrong_split`, `missing_image`, `bad_text`, or `empty_text` if no
            pair is left.
    """
    if not isinstance(book, Mapping):
        raise Rejected("bad_row", f"the book is {type(book).__name__}, not an object")
    if book.get("split") != TRAIN:
        raise Rejected("wrong_split", f"split is {book.get('split')!r}, not {TRAIN}")
    pairs = _pairs(book)
    cover = _cover(book, book_id, covers=covers)
    rounds, rejected_pairs = filled_rounds(pairs, [cover])
    record = Record(
        key=f"ocr_vqa/{book_id}",
        source="ocr_vqa",
        rounds=rounds,
        licence=SOURCE.licence,
        file=FILE,
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
    return list(zip(map(_said, questions), map(_said, answers), strict=True))


def _said(value: Any) -> Any:
    """Return a text as text: a missing author is null, a year may be a number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return "" if value is None else value


def _cover(
    book: Mapping[str, Any], book_id: str, *, covers: Mapping[str, tuple[str, ...]]
) -> ImageRef:
    """Return the book's file; of several, the one with the extension that `imageURL` has."""
    names = covers.get(book_id)
    if not names:
        raise Rejected("missing_image", f"no {FOLDER}/{book_id}.*")
    extension = str(book.get("imageURL", "")).rpartition(".")[2].lower()
    fitting = [name for name in names if name.lower().endswith(f".{extension}")]
    return ImageRef(key=f"ocr_vqa:{book_id}", file=f"{FOLDER}/{(fitting or names)[0]}")


SOURCE = Source(
    name="ocr_vqa",
    about="about five questions on a book cover's title, author, genre, year (207 k covers)",
    needs=(
        Need(
            paths=(FILE,),
            how="download dataset.json from https://ocr-vqa.github.io/ and put it in OCR_VQA/ of"
            " the data folder",
        ),
        Need(
            paths=(f"{FOLDER}/",),
            how="fetch the covers with the script from https://ocr-vqa.github.io/ (or take a"
            " mirror) and put them in OCR_VQA/images/ of the data folder",
        ),
    ),
    licence="for research use; covers belong to their publishers",
    rows=rows,
    known=KnownCount(number=207_572, of="rows"),
)
