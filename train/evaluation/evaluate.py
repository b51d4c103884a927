"""Evaluate a checkpoint: load it, answer what a file asks, score the answers, write them.

In: a checkpoint, and the questions or dialogues of an evaluation file. Out: their scores, and
`answers.json`, `answers.csv` and `answers.html` with every answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vchat.base.files import sha256_file
from vchat.base.progress import show_progress
from vchat.train.chat.chat_model import ChatModel, load_chat_model
from vchat.train.checkpoints.checkpoint import Checkpoint
from vchat.train.evaluation.answer_files import write_dialogue_answers, write_question_answers
from vchat.train.evaluation.answering import Batching, answer_questions
from vchat.train.evaluation.dialogue_answers import answer_dialogues, mean_scores
from vchat.train.evaluation.dialogue_questions import EvaluationDialogue
from vchat.train.evaluation.questions import AskedQuestions
from vchat.train.evaluation.scoring import Score, score_answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A loaded checkpoint, and where its answers go."""

    chat_model: ChatModel
    max_new_tokens: int
    """Most tokens of one answer."""

    folder: Path
    """Of the three files of answers."""

    title: str
    facts: dict[str, Any]
    """What `answers.json` says of checkpoint and questions."""


def open_evaluation(
    path: Path, *, questions_file: Path, out: Path | None, max_new_tokens: int, device: str | None
) -> Evaluation:
    """Load a checkpoint for evaluation.

    Args:
        path: A step folder, or a run's folder: then its newest checkpoint.
        questions_file: What will be asked; named and digested in the answers' files.
        out: The folder of answers; by default `default_folder`.
        max_new_tokens: Most tokens of one answer.
        device: By default a GPU if there is one.
    """
    chat_model, checkpoint = load_chat_model(path, device=device)
    return Evaluation(
        chat_model=chat_model,
        max_new_tokens=max_new_tokens,
        folder=out or default_folder(checkpoint),
        title=f"{checkpoint.folder} on {questions_file}",
        facts={
            "checkpoint": str(checkpoint.folder),
            "step": checkpoint.step,
            "questions": str(questions_file),
            "questions_sha256": sha256_file(questions_file),
            "max_new_tokens": max_new_tokens,
            "match": "stripped, case ignored, one final full stop dropped",
        },
    )


def default_folder(checkpoint: Checkpoint) -> Path:
    """Return the default folder of answers: beside the step folders of the run."""
    return checkpoint.folder.parent / "evaluation" / checkpoint.folder.name


def evaluate_questions(
    evaluation: Evaluation,
    asked: AskedQuestions,
    *,
    metrics: Sequence[str],
    rows: int,
) -> dict[str, list[Score]]:
    """Answer and score questions, write the answers, and return the scores by image variant.

    Args:
        evaluation: The checkpoint and its folder of answers.
        asked: The questions by image variant.
        metrics: Names of `METRICS`, beside exact match.
        rows: How many questions are answered together.
    """
    total = sum(map(len, asked.by_variant.values()))
    with show_progress("answering", total=total, unit="questions") as advance:
        answered = {
            variant: answer_questions(
                evaluation.chat_model,
                questions,
                max_new_tokens=evaluation.max_new_tokens,
                batching=Batching(rows=rows),
                blank=variant == "blank",
                on_answered=advance,
            )
            for variant, questions in asked.by_variant.items()
        }
    scores = {name: score_answers(some, metrics=metrics) for name, some in answered.items()}
    facts = evaluation.facts | asked.facts
    write_question_answers(evaluation.folder, answered, scores, facts=facts, title=evaluation.title)
    return scores


def evaluate_dialogues(
    evaluation: Evaluation, dialogues: Sequence[EvaluationDialogue], *, metrics: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Answer and score dialogues, write the answers, and return `mean_scores` of them.

    Args:
        evaluation: The checkpoint and its folder of answers.
        dialogues: What is asked.
        metrics: Names of `METRICS`; a repeated one counts once.
    """
    total = sum(len(dialogue.rounds) for dialogue in dialogues)
    with show_progress("answering", total=total, unit="rounds") as advance:
        answered = answer_dialogues(
            evaluation.chat_model,
            dialogues,
            max_new_tokens=evaluation.max_new_tokens,
            metrics=tuple(dict.fromkeys(metrics)),
            on_answered=advance,
        )
    write_dialogue_answers(
        evaluation.folder, answered, facts=evaluation.facts, title=evaluation.title
    )
    return mean_scores(answered)
