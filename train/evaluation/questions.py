"""Evaluation questions: read from one JSON file, with the images that each shows.

Input: a JSON array of `{"id", "kind", "images", "question", "answer", "chance"}`, and `"answers"`
if several people answered; image paths are relative to the file's folder and may not leave it.
Output: `Question` values in file order.
Everything is checked before a model is loaded, and an error names the file and the entry.
`swap_images` gives every question the images of another one: does the model use its images?
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

MAX_FILE_BYTES = 1 << 30
IMAGE_VARIANTS = ("as-is", "blank", "swapped")
"""What a question shows: its own images, grey ones, or those of another question."""

ENTRY_TYPES: dict[str, tuple[type, ...]] = {
    "id": (str,),
    "kind": (str,),
    "images": (list,),
    "question": (str,),
    "answer": (str,),
    "chance": (int, float),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question about zero or more images, and the answer that counts as right."""

    id: str
    """Unique in its file."""

    kind: str
    """What is asked about (`color`, `count` ...); accuracy is reported for each kind."""

    images: tuple[Path, ...]
    """Existing files, in the order in which the model sees them."""

    question: str
    answer: str

    chance: float
    """Expected accuracy of guessing without the images, 0 to 1."""

    answers: tuple[str, ...] = ()
    """What several people answered, for VQA accuracy; empty if there is only `answer`."""

    @property
    def right_answers(self) -> tuple[str, ...]:
        """All answers that count as right, for metrics that compare with several."""
        return self.answers or (self.answer,)


def read_questions(path: Path, *, image_root: Path | None = None) -> list[Question]:
    """Read an evaluation file; every image named in it exists when this returns.

    Args:
        path: The file.
        image_root: What image paths are relative to; by default the file's folder.

    Raises:
        ValueError: The file, an entry or an image is not as described above. The message names the
            file, the entry, the value found and the value wanted.
    """
    entries = _read_entries(path)
    root = (image_root or path.parent).resolve()
    questions: list[Question] = []
    numbers: dict[str, int] = {}
    for number, entry in enumerate(entries):
        question = _parse_question(entry, where=f"{path}: entry {number}", root=root)
        if question.id in numbers:
            raise ValueError(
                f"{path}: entries {numbers[question.id]} and {number} have the same id"
                f" {question.id!r}, wanted unique ids"
            )
        numbers[question.id] = number
        questions.append(question)
    return questions


def vary_images(
    questions: Sequence[Question], *, variants: Sequence[str]
) -> dict[str, list[Question]]:
    """Return the questions by image variant; those of `blank` keep the images that set its number.

    Raises:
        ValueError: `swapped` is among the variants, and images of a kind cannot be swapped.
    """
    return {
        name: swap_images(questions) if name == "swapped" else list(questions) for name in variants
    }


def swap_images(questions: Sequence[Question]) -> list[Question]:
    """Give each question the images of another one with a different answer.

    The donor is the next question, cyclic in file order, of the same kind and number of images.
    Text, answer and order stay.

    Raises:
        ValueError: A kind has images but no two different answers.
    """
    groups: dict[tuple[str, int], list[int]] = {}
    for i, question in enumerate(questions):
        groups.setdefault((question.kind, len(question.images)), []).append(i)
    result = list(questions)
    for (kind, num_images), members in groups.items():
        if num_images == 0:
            continue
        for rank, i in enumerate(members):
            donor = _next_with_other_answer(questions, members, rank)
            if donor is None:
                raise ValueError(
                    f"images of kind {kind!r} cannot be swapped: all its {len(members)} questions"
                    f" with {num_images} images have the answer {questions[i].answer!r},"
                    " wanted at least two different answers"
                )
            result[i] = replace(questions[i], images=questions[donor].images)
    return result


def _next_with_other_answer(
    questions: Sequence[Question], members: list[int], rank: int
) -> int | None:
    answer = questions[members[rank]].answer
    for other in members[rank + 1 :] + members[:rank]:
        if questions[other].answer != answer:
            return other
    return None


def _read_entries(path: Path) -> list[Any]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file, wanted a JSON array of evaluation questions")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{path}: {path.stat().st_size} bytes, wanted at most {MAX_FILE_BYTES}")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as err:
        raise ValueError(f"{path}: not readable as JSON: {err}") from err
    if not isinstance(entries, list) or not entries:
        found = "an empty array" if entries == [] else describe_value(entries)
        raise ValueError(f"{path}: found {found}, wanted a JSON array of at least one question")
    return entries


def _parse_question(entry: Any, *, where: str, root: Path) -> Question:
    """Check one entry's keys, types and images; every error message opens with `where`."""
    if not isinstance(entry, dict):
        raise ValueError(
            f"{where}: found {describe_value(entry)}, wanted an object with "
            f"{', '.join(ENTRY_TYPES)}"
        )
    if isinstance(entry.get("id"), str):
        where = f"{where} (id {entry['id']!r})"
    for key, types in ENTRY_TYPES.items():
        if key not in entry:
            raise ValueError(f"{where}: key {key!r} is missing, wanted {', '.join(ENTRY_TYPES)}")
        if not isinstance(entry[key], types) or isinstance(entry[key], bool):
            wanted = " or ".join(one.__name__ for one in types)
            raise ValueError(f"{where}: {key!r} is {describe_value(entry[key])}, wanted {wanted}")
    if not 0 <= entry["chance"] <= 1:
        raise ValueError(f"{where}: 'chance' is {entry['chance']}, wanted 0 to 1")
    return Question(
        id=entry["id"],
        kind=entry["kind"],
        images=tuple(resolve_image(root, name, where=where) for name in entry["images"]),
        question=entry["question"].strip(),
        answer=entry["answer"].strip(),
        answers=_parse_answers(entry, where=where),
        chance=float(entry["chance"]),
    )


def _parse_answers(entry: dict[str, Any], *, where: str) -> tuple[str, ...]:
    answers = entry.get("answers", [])
    if not isinstance(answers, list) or not all(isinstance(a, str) for a in answers):
        raise ValueError(f"{where}: 'answers' is {describe_value(answers)}, wanted a list of texts")
    return tuple(answer.strip() for answer in answers)


def resolve_image(root: Path, name: Any, *, where: str) -> Path:
    """Return an existing file below `root`.

    Raises:
        ValueError: There is no such file, or it lies outside; the message opens with `where`.
    """
    if not isinstance(name, str):
        raise ValueError(f"{where}: image {describe_value(name)}, wanted a path relative to {root}")
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise ValueError(f"{where}: image {name!r} lies outside {root}, wanted a path inside it")
    if not path.is_file():
        raise ValueError(f"{where}: image {name!r} is missing, wanted a file at {path}")
    return path


def describe_value(value: Any) -> str:
    """Return type and value, cut short enough for one line of an error."""
    text = json.dumps(value, ensure_ascii=True)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
