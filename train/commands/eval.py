"""`vchat-train eval`: answer an evaluation file, score the answers, show what the images are worth.

In: a checkpoint and a JSON file of questions (`questions.py`) or of dialogues
(`dialogue_questions.py`, the published format). Out: a table of exact match per kind with its 95 %
interval and chance, and `answers.json`, `answers.csv` and `answers.html` with every answer.
An answer is right if it equals the wanted one after stripping blanks, ignoring case and dropping
one final full stop.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from vchat.base.cli import WrongUse
from vchat.base.files import sha256_file, write_atomically
from vchat.base.progress import show_progress
from vchat.train.evaluation.dialogue_questions import (
    EvaluationDialogue,
    holds_dialogues,
    read_dialogues,
)
from vchat.train.evaluation.questions import Question, read_questions, swap_images
from vchat.train.evaluation.scoring import AnsweredQuestion, Score, score_answers, score_table

if TYPE_CHECKING:
    from vchat.train.chat.chat_model import ChatModel
    from vchat.train.checkpoints.checkpoint import Checkpoint
    from vchat.train.evaluation.answering import Batching

IMAGES = ("as-is", "blank", "swapped")
CSV_COLUMNS = ("images", "id", "kind", "num_images", "question", "wanted", "answer", "right")


@click.command("eval")
@click.option(
    "--checkpoint",
    required=True,
    type=click.Path(path_type=Path),
    help="A step folder, or a run's folder: then its newest checkpoint.",
)
@click.option(
    "--questions",
    "questions_file",
    required=True,
    type=click.Path(path_type=Path),
    help='JSON array of {"id", "kind", "images", "question", "answer", "chance"}, or object'
    ' {NAME: [[QUESTION, "IMAGE PATHS"], ...]} of dialogues.',
)
@click.option(
    "--image-root",
    type=click.Path(path_type=Path),
    help="What image paths are relative to  [default: the folder of the questions]",
)
@click.option(
    "--metric",
    "metrics",
    type=click.Choice(["exact", "vqa", "rouge-l"]),
    multiple=True,
    help="Further scores beside exact match; may be repeated.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for answers.json and answers.csv  [default: evaluation/STEP beside the step]",
)
@click.option(
    "--images",
    type=click.Choice(IMAGES),
    default="as-is",
    show_default=True,
    help="Show the images, grey ones, or those of another question of the same kind.",
)
@click.option("--ablations", is_flag=True, help="All three of --images, side by side.")
@click.option("--max-new-tokens", default=32, show_default=True, help="An answer is cut there.")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Questions answered together.",
)
@click.option("--device", help="Such as cpu or cuda:0; by default a GPU if there is one.")
def command(
    checkpoint: Path,
    questions_file: Path,
    image_root: Path | None,
    metrics: tuple[str, ...],
    out: Path | None,
    images: str,
    ablations: bool,
    max_new_tokens: int,
    batch_size: int,
    device: str | None,
) -> None:
    """Answer an evaluation file and score the answers by exact match.

    An answer is right if it equals the wanted one after stripping blanks, ignoring case and
    dropping one final full stop. With --ablations the accuracy with blank and swapped images must
    fall to chance (or below: a swapped image shows another answer), or the questions leak theirs.
    """
    if not questions_file.is_file():
        raise WrongUse(f"{questions_file}: no such file, wanted evaluation questions as JSON")
    if holds_dialogues(questions_file):
        if ablations or images != "as-is":
            raise WrongUse("dialogues are asked with their own images: leave --images as it is")
        dialogues = read_dialogues(questions_file, image_root=image_root)
        evaluate_dialogues(
            dialogues,
            checkpoint=checkpoint,
            questions_file=questions_file,
            out=out,
            max_new_tokens=max_new_tokens,
            metrics=("exact", *metrics),
            device=device,
        )
        return
    questions = read_questions(questions_file, image_root=image_root)
    shown = IMAGES if ablations else (images,)
    asked = {name: swap_images(questions) if name == "swapped" else questions for name in shown}

    from vchat.train.chat.chat_model import load_chat_model
    from vchat.train.evaluation.answering import Batching

    batching = Batching(rows=batch_size)
    chat_model, opened = load_chat_model(checkpoint, device=device)
    answered = _answer_runs(chat_model, asked, max_new_tokens=max_new_tokens, batching=batching)
    scored = {name: score_answers(run, metrics=metrics) for name, run in answered.items()}
    folder = out or default_folder(opened)
    write_answers(
        folder, answered, scored, facts=_run_facts(opened, questions_file, max_new_tokens)
    )
    title = f"{opened.folder} on {questions_file}"
    Console().print(score_table(scored, title=title))
    write_page(folder, answered, scored, title=title)
    click.echo(f"answers: {folder / 'answers.html'}, answers.json and answers.csv")


def evaluate_dialogues(
    dialogues: Sequence[EvaluationDialogue],
    *,
    checkpoint: Path,
    questions_file: Path,
    out: Path | None,
    max_new_tokens: int,
    metrics: Sequence[str],
    device: str | None,
) -> None:
    """Answer dialogues, write the answers, and print how many there were and their scores."""
    from vchat.train.chat.chat_model import load_chat_model
    from vchat.train.evaluation.dialogue_answers import (
        answer_dialogues,
        mean_scores,
        write_dialogue_answers,
    )

    chat_model, opened = load_chat_model(checkpoint, device=device)
    total = sum(len(dialogue.rounds) for dialogue in dialogues)
    with show_progress("answering", total=total, unit="rounds") as done:
        answered = answer_dialogues(
            chat_model,
            dialogues,
            max_new_tokens=max_new_tokens,
            metrics=tuple(dict.fromkeys(metrics)),
            on_answered=done,
        )
    folder = out or default_folder(opened)
    facts = _run_facts(opened, questions_file, max_new_tokens)
    title = f"{opened.folder} on {questions_file}"
    write_dialogue_answers(folder, answered, facts=facts, title=title)
    click.echo(f"{total} rounds of {len(dialogues)} dialogues answered")
    for name, score in mean_scores(answered).items():
        click.echo(f"{name}: {100 * score['mean']:.1f} over {score['rounds']:.0f} rounds")
    click.echo(f"answers: {folder / 'answers.html'}, answers.json and answers.csv")


def default_folder(checkpoint: Checkpoint) -> Path:
    """Where answers go unless told: beside the step folders of the run."""
    return checkpoint.folder.parent / "evaluation" / checkpoint.folder.name


def write_page(
    folder: Path,
    answered: Mapping[str, Sequence[AnsweredQuestion]],
    scored: Mapping[str, Sequence[Score]],
    *,
    title: str,
) -> None:
    """Write `answers.html`: the scores, and every answer of the first way of showing images."""
    from vchat.train.evaluation.page import ShownRound, evaluation_page

    name, run = next(iter(answered.items()))
    shown = [
        ShownRound(
            group=one.question.kind,
            images=one.question.images if name != "blank" else (),
            question=one.question.question,
            wanted=one.question.answer,
            answer=one.answer,
            right=one.is_right,
        )
        for one in sorted(run, key=lambda one: one.question.kind)
    ]
    lines = [(one.group, f"{100 * one.accuracy:.1f} %") for one in scored[name]]
    with write_atomically(folder / "answers.html") as file:
        file.write(evaluation_page(shown, title=title, scores=lines).encode())


def _answer_runs(
    chat_model: ChatModel,
    asked: Mapping[str, Sequence[Question]],
    *,
    max_new_tokens: int,
    batching: Batching,
) -> dict[str, list[AnsweredQuestion]]:
    """Answer all questions once for each way of showing images, under one progress bar."""
    from vchat.train.evaluation.answering import answer_questions

    answered = {}
    with show_progress("answering", total=sum(map(len, asked.values())), unit="questions") as done:
        for name, questions in asked.items():
            answered[name] = answer_questions(
                chat_model,
                questions,
                max_new_tokens=max_new_tokens,
                batching=batching,
                blank=name == "blank",
                on_answered=done,
            )
    return answered


def write_answers(
    folder: Path,
    answered: Mapping[str, Sequence[AnsweredQuestion]],
    scored: Mapping[str, Sequence[Score]],
    *,
    facts: Mapping[str, Any],
) -> None:
    """Write `answers.json` (facts, scores and answers) and `answers.csv` (answers), each whole."""
    report = {
        **facts,
        "scores": {name: [_score_facts(one) for one in run] for name, run in scored.items()},
        "answers": {name: [_answer_facts(one) for one in run] for name, run in answered.items()},
    }
    with write_atomically(folder / "answers.json") as file:
        file.write((json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())
    rows = io.StringIO()
    writer = csv.DictWriter(
        rows,
        CSV_COLUMNS,
        extrasaction="ignore",
        quoting=csv.QUOTE_NONNUMERIC,  # an answer may hold any line break
        lineterminator="\n",
    )
    writer.writeheader()
    for name, run in answered.items():
        for one in run:
            row = _answer_facts(one)
            writer.writerow(row | {"images": name, "num_images": len(row["images"])})
    with write_atomically(folder / "answers.csv") as file:
        file.write(rows.getvalue().encode())


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


def _run_facts(checkpoint: Checkpoint, questions_file: Path, max_new_tokens: int) -> dict[str, Any]:
    return {
        "checkpoint": str(checkpoint.folder),
        "step": checkpoint.step,
        "questions": str(questions_file),
        "questions_sha256": sha256_file(questions_file),
        "max_new_tokens": max_new_tokens,
        "match": "stripped, case ignored, one final full stop dropped",
    }
