"""Evaluation questions: read from one JSON file, with the images that each shows.

Input: a JSON array of `{"id", "kind", "images", "question", "answer", "chance"}`, and `"answers"`
if several people answered; image paths are relative to the file's folder and may not leave it.
Output: `Question` values in file order.
Everything is checked before a model is loaded, and an error names the file and the entry.
`swap_images` gives questions the pictures of other ones: does the model use its images?
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vchat.base.checked_json import parse_json
from vchat.base.files import sha256_file
from vchat.train.evaluation.metrics import normalise_answer

MAX_FILE_BYTES = 1 << 30
IMAGE_VARIANTS = ("as-is", "blank", "swapped")
"""What a question shows: its own images, grey ones, or those of other questions."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class SwappedQuestions:
    """Questions that show the pictures of others."""

    questions: list[Question]
    """In file order: those that were swapped, and those without images as they are."""

    left_out: list[str]
    """Ids of the questions with images that no other question has other pictures for."""

    @property
    def num_swapped(self) -> int:
        """How many questions show other pictures than their own."""
        return sum(bool(question.images) for question in self.questions)


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedQuestions:
    """The questions of a file by what they show."""

    by_variant: dict[str, list[Question]]
    """Those of `blank` keep their images, which set the number of grey ones."""

    facts: dict[str, Any]
    """What is said of them beside the answers: how many could be swapped, and which could not."""


def vary_images(questions: Sequence[Question], *, variants: Sequence[str]) -> AskedQuestions:
    """Return the questions by image variant.

    Raises:
        ValueError: `swapped` is among the variants, and no question can be swapped.
    """
    by_variant = {name: list(questions) for name in variants}
    if "swapped" not in variants:
        return AskedQuestions(by_variant=by_variant, facts={})
    swapped = swap_images(questions)
    by_variant["swapped"] = swapped.questions
    facts = {
        "num_swapped": swapped.num_swapped,
        "num_with_images": swapped.num_swapped + len(swapped.left_out),
        "not_swapped": swapped.left_out,
    }
    return AskedQuestions(by_variant=by_variant, facts=facts)


def swap_images(questions: Sequence[Question]) -> SwappedQuestions:
    """Give each question the pictures of another one that has another answer.

    The donor is the next question, cyclic in file order, of the same kind and number of images
    that has another right answer (after `normalise_answer`) and shares no picture with it, by the
    bytes of the files. Text, answer and order stay. Every picture is read once.

    Raises:
        ValueError: No question can be swapped.
    """
    groups: dict[tuple[str, int], list[_Asked]] = {}
    digests: dict[Path, str] = {}
    for number, question in enumerate(questions):
        for path in question.images:
            digests[path] = digests.get(path) or sha256_file(path)
        asked = _Asked.of(question, number=number, digests=digests)
        groups.setdefault((question.kind, len(question.images)), []).append(asked)
    donors = {
        one.number: _next_donor(members, rank)
        for (_, num_images), members in groups.items()
        if num_images
        for rank, one in enumerate(members)
    }
    if donors and not any(donors.values()):
        raise ValueError(
            f"none of the {len(donors)} questions with images can be swapped: none has another"
            " question of its kind and number of images with another answer and other pictures"
        )
    swapped = SwappedQuestions(questions=[], left_out=[])
    for number, question in enumerate(questions):
        donor = donors.get(number)
        if donor is not None:
            swapped.questions.append(replace(question, images=donor.images))
        elif question.images:
            swapped.left_out.append(question.id)
        else:
            swapped.questions.append(question)
    return swapped


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What a question and its donor are compared by."""

    number: int
    question: Question
    pictures: frozenset[str]
    answers: frozenset[str]

    @classmethod
    def of(cls, question: Question, *, number: int, digests: Mapping[Path, str]) -> _Asked:
        return cls(
            number=number,
            question=question,
            pictures=frozenset(digests[path] for path in question.images),
            answers=frozenset(map(normalise_answer, question.right_answers)),
        )


def _next_donor(members: Sequence[_Asked], rank: int) -> Question | None:
    own = members[rank]
    for step in range(1, len(members)):
        other = members[(rank + step) % len(members)]
        has_other_answer = normalise_answer(other.question.answer) not in own.answers
        if has_other_answer and not other.pictures & own.pictures:
            return other.question
    return None


def _read_entries(path: Path) -> list[Any]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file, wanted a JSON array of evaluation questions")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{path}: {path.stat().st_size} bytes, wanted at most {MAX_FILE_BYTES}")
    entries = parse_json(path.read_bytes(), name=f"{path}:")
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
