"""`vchat-train eval`: answer an evaluation file and print the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vchat.base.cli import WrongUse
from vchat.base.terminal_text import echo
from vchat.train.chat.commands.options import CHECKPOINT, DEVICE
from vchat.train.evaluation.dialogue_questions import (
    EvaluationDialogue,
    holds_dialogues,
    read_dialogues,
)
from vchat.train.evaluation.questions import IMAGE_VARIANTS, read_questions, vary_images

if TYPE_CHECKING:
    from vchat.train.evaluation.scoring import Score


@click.command("eval")
@CHECKPOINT
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
    help="Folder that image paths are relative to  [default: the folder of the questions]",
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
    type=click.Choice(IMAGE_VARIANTS),
    default="as-is",
    show_default=True,
    help="Show the images, grey ones, or other pictures: those of another question of the same"
    " kind with another answer.",
)
@click.option("--ablations", is_flag=True, help="All three values of --images, side by side.")
@click.option("--max-new-tokens", default=32, show_default=True, help="Most tokens of an answer.")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="How many questions are answered together.",
)
@DEVICE
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
    Questions that no other one has other pictures for are not asked with swapped images; how many
    could be swapped is said below the scores and in answers.json.
    """
    if not questions_file.is_file():
        raise WrongUse(f"{questions_file}: no such file, wanted evaluation questions as JSON")
    asks_dialogues = holds_dialogues(questions_file)
    if asks_dialogues and (ablations or images != "as-is"):
        raise WrongUse("dialogues are asked with their own images: leave --images as it is")
    variants = IMAGE_VARIANTS if ablations else (images,)
    dialogues = read_dialogues(questions_file, image_root=image_root) if asks_dialogues else []
    questions = [] if asks_dialogues else read_questions(questions_file, image_root=image_root)
    asked = vary_images(questions, variants=variants)
    from vchat.train.evaluation.evaluate import (
        evaluate_dialogues,
        evaluate_questions,
        open_evaluation,
    )

    evaluation = open_evaluation(
        checkpoint,
        questions_file=questions_file,
        out=out,
        max_new_tokens=max_new_tokens,
        device=device,
    )
    if asks_dialogues:
        means = evaluate_dialogues(evaluation, dialogues, metrics=("exact", *metrics))
        print_dialogue_scores(dialogues, means)
    else:
        scores = evaluate_questions(evaluation, asked, metrics=metrics, rows=batch_size)
        print_scores(scores, title=evaluation.title)
        print_num_swapped(asked.facts)
    folder = evaluation.folder
    echo(f"answers: {folder / 'answers.html'}, answers.json and answers.csv")


def print_scores(scores: Mapping[str, Sequence[Score]], *, title: str) -> None:
    """Print the table of scores."""
    from rich.console import Console

    from vchat.train.evaluation.scoring import score_table

    Console().print(score_table(scores, title=title))


def print_num_swapped(facts: Mapping[str, Any]) -> None:
    """Print how many questions show other pictures, if any were to be swapped."""
    if "num_swapped" not in facts:
        return
    of_all = f"{facts['num_swapped']:,} of {facts['num_with_images']:,}"
    line = f"swapped: {of_all} questions with images"
    left_out = len(facts["not_swapped"])
    reason = "no other question of their kind has other pictures and another answer"
    echo(line + (f"; {left_out:,} are not asked so, since {reason}" if left_out else ""))


def print_dialogue_scores(
    dialogues: Sequence[EvaluationDialogue], means: Mapping[str, Mapping[str, float]]
) -> None:
    """Print how many rounds were answered, and their mean scores."""
    num_rounds = sum(len(dialogue.rounds) for dialogue in dialogues)
    echo(f"{num_rounds} rounds of {len(dialogues)} dialogues answered")
    for name, score in means.items():
        echo(f"{name}: {100 * score['mean']:.1f} over {score['rounds']:.0f} rounds")
