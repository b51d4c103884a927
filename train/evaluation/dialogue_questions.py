"""Evaluation dialogues: several rounds each, with images in any round, answered in order.

Input: the published format, one JSON object `{name: [[question, "image paths"], ...], ...}`. A
round is a question and its images' paths in one text, separated by blanks; a round without images
leaves the second text out. A round may also be an object `{"question", "images", "answer"}`, whose
images are a list; its answer, if present, is what the model's answer is compared with. Paths are
relative to the image root, by default the file's folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vchat.base.checked_json import parse_json
from vchat.train.evaluation.questions import MAX_FILE_BYTES, describe_value, resolve_image


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRound:
    """One question of a dialogue."""

    question: str
    images: tuple[Path, ...]
    paths: str
    """The images as the file names them, separated by blanks."""

    answer: str | None
    """The right answer, if the file gives one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationDialogue:
    """Questions asked one after the other; each sees the rounds before it."""

    name: str
    rounds: tuple[EvaluationRound, ...]


def holds_dialogues(path: Path) -> bool:
    """Return whether an evaluation file is a JSON object: dialogues, not single questions."""
    with path.open(encoding="utf-8") as file:
        while (character := file.read(1)).isspace():
            pass
    return character == "{"


def read_dialogues(path: Path, *, image_root: Path | None = None) -> list[EvaluationDialogue]:
    """Read a file of dialogues; every image named in it exists when this returns.

    Args:
        path: The file.
        image_root: What image paths are relative to; by default the file's folder.

    Raises:
        ValueError: The file is not as described above. The message names the file, the dialogue and
            round, the value found and the value wanted.
    """
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{path}: {path.stat().st_size} bytes, wanted at most {MAX_FILE_BYTES}")
    found = parse_json(path.read_bytes(), name=f"{path}:")
    if not isinstance(found, dict) or not found:
        raise ValueError(
            f"{path}: found {describe_value(found)}, wanted an object of dialogues by name"
        )
    root = (image_root or path.parent).resolve()
    dialogues = []
    for name, rounds in found.items():
        where = f"{path}: dialogue {name!r}"
        if not isinstance(rounds, list) or not rounds:
            raise ValueError(f"{where}: found {describe_value(rounds)}, wanted a list of rounds")
        asked = (
            _parse_round(one, where=f"{where}, round {number}", root=root)
            for number, one in enumerate(rounds, start=1)
        )
        dialogues.append(EvaluationDialogue(name=name, rounds=tuple(asked)))
    return dialogues


def _parse_round(found: Any, *, where: str, root: Path) -> EvaluationRound:
    entry = _as_object(found)
    if entry is None:
        raise ValueError(
            f'{where}: found {describe_value(found)}, wanted [question], [question, "image paths"]'
            ' or an object {"question", "images", "answer"}'
        )
    images = [resolve_image(root, name, where=where) for name in entry["images"]]
    return EvaluationRound(
        question=entry["question"].strip(),
        images=tuple(images),
        paths=" ".join(entry["images"]),
        answer=entry["answer"],
    )


def _as_object(found: Any) -> dict[str, Any] | None:
    """Return either form of a round as an object; None if it is neither."""
    if isinstance(found, list) and 1 <= len(found) <= 2:
        if not all(isinstance(text, str) for text in found):
            return None
        images = found[1].split() if len(found) == 2 else []
        return {"question": found[0], "images": images, "answer": None}
    if not isinstance(found, Mapping) or set(found) - {"question", "images", "answer"}:
        return None
    entry = {"images": [], "answer": None, **found}
    sound = isinstance(entry.get("question"), str) and isinstance(entry["images"], list)
    return entry if sound and isinstance(entry["answer"], str | None) else None
