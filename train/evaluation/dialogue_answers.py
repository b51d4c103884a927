"""Answer evaluation dialogues round by round, and write the answers as CSV, JSON and a page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vchat.base.files import write_atomically
from vchat.train.chat.chat_model import ChatModel
from vchat.train.chat.generation import Sampling
from vchat.train.chat.session import ChatSession, EndReason
from vchat.train.evaluation.dialogue_questions import EvaluationDialogue, EvaluationRound
from vchat.train.evaluation.metrics import METRICS
from vchat.train.evaluation.page import ShownRound, evaluation_page

COLUMNS = ("test_name", "image_path", "question", "answer")
"""Of the CSV file, as the published evaluation writes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredRound:
    """One round and what the model answered."""

    dialogue: str
    asked: EvaluationRound
    answer: str
    ended: bool
    """False if the answer was cut at the most new tokens allowed, or at the model's positions."""

    scores: dict[str, float]
    """By metric, 0 to 1; empty if the file does not say what is right."""


def answer_dialogues(
    chat_model: ChatModel,
    dialogues: Sequence[EvaluationDialogue],
    *,
    max_new_tokens: int,
    metrics: Sequence[str],
    on_answered: Callable[[int], None] = lambda number: None,
) -> list[AnsweredRound]:
    """Answer every round greedily, after the rounds before it with the model's own answers.

    Raises:
        ValueError: an image is undecodable or a dialogue outgrows the model; names the round.
    """
    answered = []
    for dialogue in dialogues:
        session = ChatSession(chat_model, sampling=Sampling(max_new_tokens=max_new_tokens))
        for number, asked in enumerate(dialogue.rounds, start=1):
            try:
                images = [chat_model.decode_picture(path.read_bytes()) for path in asked.images]
                answer = "".join(session.ask(asked.question, images=images))
            except ValueError as err:
                raise ValueError(f"dialogue {dialogue.name!r}, round {number}: {err}") from err
            answered.append(
                AnsweredRound(
                    dialogue=dialogue.name,
                    asked=asked,
                    answer=answer,
                    ended=session.rounds[-1].end_reason is EndReason.BY_MODEL,
                    scores=_score_answer(answer, asked.answer, metrics=metrics),
                )
            )
            on_answered(1)
    return answered


def mean_scores(answered: Sequence[AnsweredRound]) -> dict[str, dict[str, float]]:
    """Number of scored rounds and mean of each metric over them."""
    scored = [one.scores for one in answered if one.scores]
    if not scored:
        return {}
    means = {name: sum(one[name] for one in scored) / len(scored) for name in scored[0]}
    return {name: {"rounds": len(scored), "mean": mean} for name, mean in means.items()}


def write_dialogue_answers(
    folder: Path, answered: Sequence[AnsweredRound], *, facts: Mapping[str, Any], title: str
) -> None:
    """Write `answers.csv` (published columns), `answers.json` and `answers.html`, each whole."""
    report = {
        **facts,
        "scores": mean_scores(answered),
        "answers": [_round_facts(one) for one in answered],
    }
    page = evaluation_page(
        [_to_shown_round(one) for one in answered], title=title, scores=_score_lines(answered)
    )
    for name, text in (
        ("answers.csv", as_csv(answered)),
        ("answers.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n"),
        ("answers.html", page),
    ):
        with write_atomically(folder / name) as file:
            file.write(text.encode())


def as_csv(answered: Sequence[AnsweredRound]) -> str:
    """Return the rows of the published evaluation; a round without images has an empty path."""
    rows = io.StringIO()
    writer = csv.writer(
        rows,
        quoting=csv.QUOTE_NONNUMERIC,  # an answer may hold any line break
        lineterminator="\n",
    )
    writer.writerow(COLUMNS)
    for one in answered:
        writer.writerow([one.dialogue, one.asked.paths, one.asked.question, one.answer])
    return rows.getvalue()


def _score_answer(answer: str, wanted: str | None, *, metrics: Sequence[str]) -> dict[str, float]:
    return {} if wanted is None else {name: METRICS[name](answer, [wanted]) for name in metrics}


def _score_lines(answered: Sequence[AnsweredRound]) -> list[tuple[str, str]]:
    return [
        (name, f"{100 * score['mean']:.1f} over {score['rounds']} rounds")
        for name, score in mean_scores(answered).items()
    ]


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


def _to_shown_round(one: AnsweredRound) -> ShownRound:
    right = one.scores.get("exact")
    return ShownRound(
        group=one.dialogue,
        images=one.asked.images,
        question=one.asked.question,
        wanted=one.asked.answer,
        answer=one.answer,
        right=None if right is None else bool(right),
    )
