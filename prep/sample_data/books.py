"""OCR-VQA: covers of books, with their questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vchat.prep.sample_data import questions
from vchat.prep.sample_data.draw import draw_picture
from vchat.prep.sample_data.draws import Draws
from vchat.prep.sample_data.world import Cover, draw_cover
from vchat.prep.sample_data.write import write_jpeg, write_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """One cover with its id (ten digits as in an ISBN, the first is 0) and its picture."""

    id: str
    cover: Cover
    image: Image.Image


def draw_books(seed: int, *, number: int) -> list[Book]:
    """Draw `number` books."""
    books = []
    for i in range(number):
        draws = Draws(seed, "ocr_vqa", i)
        cover = draw_cover(draws)
        books.append(Book(id=f"{7 * i + 10:010d}", cover=cover, image=draw_picture(cover, draws)))
    return books


def write_ocr_vqa(
    root: Path, books: Sequence[Book], seed: int, *, advance: Callable[[int], None]
) -> None:
    """Write the covers and `dataset.json`; one book in ten is for validation or testing."""
    entries = {}
    for book in books:
        write_jpeg(root / f"OCR_VQA/images/{book.id}.jpg", book.image)
        entries[book.id] = ocr_vqa_entry(book, Draws(seed, "ocr_vqa split", book.id))
        advance(1)
    write_json(root / "OCR_VQA/dataset.json", entries)


def ocr_vqa_entry(book: Book, draws: Draws) -> dict[str, Any]:
    """Return the entry of one book; split 1 is train, 2 validation, 3 test."""
    asked = draws.shuffle([questions.title_of(book.cover), questions.genre_of(book.cover)])
    return {
        "imageURL": f"http://covers.example/I/{book.id}.jpg",
        "questions": [question for question, _ in asked],
        "answers": [answer for _, answer in asked],
        "title": book.cover.word,
        "authorName": "A. Painter",
        "genre": book.cover.genre,
        "split": (2, 3)[draws.below(2)] if draws.below(10) == 0 else 1,
    }
