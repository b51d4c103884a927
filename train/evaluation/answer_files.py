"""The files of an evaluation: `answers.json`, `answers.csv` and `answers.html`, each whole.

JSON holds facts, scores and answers; CSV the answers, those of dialogues in the columns of the
published evaluation; HTML what a person reads.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vchat.base.files import write_atomically
from vchat.train.evaluation.dialogue_answers import AnsweredRound, mean_scores
from vchat.train.evaluation.page import ShownRound, evaluation_page
from vchat.train.evaluation.scoring import AnsweredQuestion, Score

QUESTION_COLUMNS = ("images", "id", "kind", "num_images", "question", "wanted", "answer", "right")
DIALOGUE_COLUMNS = ("test_name", "image_path", "question", "answer")
"""As the published evaluation writes them."""


def write_question_answers(
    folder: Path,
    answered: Mapping[str, Sequence[AnsweredQuestion]],
    scores: Mapping[str, Sequence[Score]],
    *,
    facts: Mapping[str, Any],
    title: str,
) -> None:
    """Write the answers to questions; the page shows those of the first image variant.

    Args:
        folder: Where the files go.
        answered: By image variant.
        scores: By image variant.
        facts: What `answers.json` opens with.
        title: Of the page.
    """
    report = {
        **facts,
        "scores": {name: [_score_facts(one) for one in some] for name, some in scores.items()},
        "answers": {name: [_answer_facts(one) for one in some] for name, some in answered.items()},
    }
    entries = (_csv_entry(variant, one) for variant, some in answered.items() for one in some)
    variant, first = next(iter(answered.items()))
    page = evaluation_page(
        [
            _show_question(one, with_images=variant != "blank")
            for one in sorted(first, key=lambda one: one.question.kind)
        ],
        title=title,
        scores=[(one.group, f"{100 * one.accuracy:.1f} %") for one in scores[variant]],
    )
    _write_files(folder, report=report, table=to_csv(QUESTION_COLUMNS, entries), page=page)


def write_dialogue_answers(
    folder: Path, answered: Sequence[AnsweredRound], *, facts: Mapping[str, Any], title: str
) -> None:
    """Write the answers to dialogues; in CSV a round without images has an empty path.

    Args:
        folder: Where the files go.
        answered: All rounds, in order.
        facts: What `answers.json` opens with.
        title: Of the page.
    """
    means = mean_scores(answered)
    report = {**facts, "scores": means, "answers": [_round_facts(one) for one in answered]}
    entries = ([one.dialogue, one.asked.paths, one.asked.question, one.answer] for one in answered)
    page = evaluation_page(
        [_show_round(one) for one in answered],
        title=title,
        scores=[
            (name, f"{100 * score['mean']:.1f} over {score['rounds']} rounds")
            for name, score in means.items()
        ],
    )
    _write_files(folder, report=report, table=to_csv(DIALOGUE_COLUMNS, entries), page=page)


def to_csv(columns: Sequence[str], entries: Iterable[Sequence[object]]) -> str:
    """Return CSV with a header line; texts are quoted, since an answer may hold any line break."""
    file = io.StringIO()
    writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(entries)
    return file.getvalue()


def _write_files(folder: Path, *, report: Mapping[str, Any], table: str, page: str) -> None:
    texts = {
        "answers.json": json.dumps(report, indent=1, ensure_ascii=False) + "\n",
        "answers.csv": table,
        "answers.html": page,
    }
    for name, text in texts.items():
        with write_atomically(folder / name) as file:
            file.write(text.encode())


def _score_facts(score: Score) -> dict[str, Any]:
    return asdict(score) | {"accuracy": score.accuracy, "interval_95": score.interval}


def _answer_facts(one: AnsweredQuestion) -> dict[str, Any]:
    return {
        "id": one.question.id,
        "kind": one.question.kind,
        "images": [str(path) for path in one.question.images],
        "question": one.question.question,
        "wanted": one.question.answer,
        "answer": one.answer,
        "ended": one.ended,
        "right": one.is_right,
    }


def _csv_entry(variant: str, one: AnsweredQuestion) -> Sequence[object]:
    """Return the values of `QUESTION_COLUMNS`."""
    question = one.question
    return (
        variant,
        question.id,
        question.kind,
        len(question.images),
        question.question,
        question.answer,
        one.answer,
        one.is_right,
    )


def _round_facts(one: AnsweredRound) -> dict[str, Any]:
    return {
        "dialogue": one.dialogue,
        "images": [str(path) for path in one.asked.images],
        "question": one.asked.question,
        "wanted": one.asked.answer,
        "answer": one.answer,
        "ended": one.ended,
        "scores": one.scores,
    }


def _show_question(one: AnsweredQuestion, *, with_images: bool) -> ShownRound:
    return ShownRound(
        group=one.question.kind,
        images=one.question.images if with_images else (),
        question=one.question.question,
        wanted=one.question.answer,
        answer=one.answer,
        is_right=one.is_right,
    )


def _show_round(one: AnsweredRound) -> ShownRound:
    right = one.scores.get("exact")
    return ShownRound(
        group=one.dialogue,
        images=one.asked.images,
        question=one.asked.question,
        wanted=one.asked.answer,
        answer=one.answer,
        is_right=None if right is None else bool(right),
    )
