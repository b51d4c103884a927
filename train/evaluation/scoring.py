"""Score short answers: exact match after normalisation, with a 95 % interval beside chance.

Input: questions and the model's answers. Output: one `Score` per question kind, per number of
images and over all, and the table that shows image variants side by side. No model, no files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from vchat.base.terminal_text import cell
from vchat.train.evaluation.metrics import METRICS, normalise_answer
from vchat.train.evaluation.questions import Question

Z_95 = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredQuestion:
    """A question and what the model answered."""

    question: Question
    """With the images that were shown, and the answer that counts as right."""

    answer: str
    """Decoded text without the end token, as generated."""

    ended: bool
    """False if the answer was cut at the maximum of new tokens."""

    @property
    def is_right(self) -> bool:
        """Whether the answer equals the question's after `normalise_answer`."""
        return normalise_answer(self.answer) == normalise_answer(self.question.answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Exact match over one group of questions."""

    group: str
    is_total: bool
    """Whether the group is a number of images or all, rather than a kind."""

    num_questions: int
    num_right: int

    chance: float
    """Mean of the questions' own chance."""

    means: dict[str, float]
    """Mean of each further metric, 0 to 1."""

    @property
    def accuracy(self) -> float:
        """The share of right answers, 0 to 1."""
        return self.num_right / self.num_questions

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the accuracy."""
        return wilson_interval(self.num_right, num_trials=self.num_questions)


def wilson_interval(num_right: int, *, num_trials: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a proportion, inside 0 to 1.

    Unlike the normal approximation it is not empty if none or all are right.

    Raises:
        ValueError: More right than trials, or no trial.
    """
    if not 0 <= num_right <= num_trials or num_trials < 1:
        raise ValueError(f"wanted 0 <= right <= trials and trials >= 1: {num_right}, {num_trials}")
    share = num_right / num_trials
    scale = 1 + Z_95**2 / num_trials
    middle = share + Z_95**2 / (2 * num_trials)
    spread = Z_95 * math.sqrt(share * (1 - share) / num_trials + Z_95**2 / (4 * num_trials**2))
    low = 0.0 if num_right == 0 else (middle - spread) / scale  # exact: no rounding below 0
    high = 1.0 if num_right == num_trials else (middle + spread) / scale
    return low, high


def score_answers(
    answered: Sequence[AnsweredQuestion], *, metrics: Sequence[str] = ()
) -> list[Score]:
    """Score each kind (in order of first appearance), then each number of images, then all.

    Args:
        answered: Questions and answers.
        metrics: Names of `METRICS`, beside exact match, which is always there.
    """
    by_kind = _group_by(answered, lambda one: one.question.kind)
    by_images = _group_by(answered, lambda one: _image_group(len(one.question.images)))
    by_images = dict(sorted(by_images.items(), key=lambda item: len(item[1][0].question.images)))
    totals = [*by_images.items(), ("all", list(answered))]
    return [
        *(_score_group(name, one, metrics, is_total=False) for name, one in by_kind.items()),
        *(_score_group(name, one, metrics, is_total=True) for name, one in totals),
    ]


def score_table(variants: Mapping[str, Sequence[Score]], *, title: str) -> Table:
    """Lay out scores as one line per group and one column per variant, beside chance.

    Three variants fit into 80 columns.

    Args:
        variants: Scores by image variant. The first has all groups; a group without questions in
            another one gets a dash.
        title: Above the table.
    """
    result = Table(
        title=cell(title),
        title_justify="left",
        caption="exact match in %, with its 95 % interval",
        caption_justify="left",
        box=box.SIMPLE,
        pad_edge=False,
    )
    result.add_column("questions", overflow="fold")
    metrics = [(name, metric) for name, some in variants.items() for metric in some[0].means]
    further = [metric if len(variants) == 1 else f"{metric}, {name}" for name, metric in metrics]
    for name in ("asked", "chance", *variants, *further):
        result.add_column(name, justify="right", no_wrap=True)
    lines = next(iter(variants.values()))
    num_kinds = sum(not score.is_total for score in lines)
    for i, first in enumerate(lines):
        line = [_score_of_group(scores, first) for scores in variants.values()]
        result.add_row(
            cell(first.group),
            str(first.num_questions),
            f"{100 * first.chance:.1f}",
            *(_format_accuracy(score) for score in line),
            *(_format_mean(score, metric) for score in line for metric in first.means),
            end_section=i == num_kinds - 1,
        )
    return result


def _group_by(
    answered: Sequence[AnsweredQuestion], group_of: Callable[[AnsweredQuestion], str]
) -> dict[str, list[AnsweredQuestion]]:
    groups: dict[str, list[AnsweredQuestion]] = {}
    for one in answered:
        groups.setdefault(group_of(one), []).append(one)
    return groups


def _image_group(num_images: int) -> str:
    return {0: "no image", 1: "single-image", 2: "two-image"}.get(num_images, f"{num_images}-image")


def _score_group(
    group: str, members: Sequence[AnsweredQuestion], metrics: Sequence[str], *, is_total: bool
) -> Score:
    return Score(
        group=group,
        is_total=is_total,
        num_questions=len(members),
        num_right=sum(one.is_right for one in members),
        chance=math.fsum(one.question.chance for one in members) / len(members),
        means={
            name: math.fsum(
                METRICS[name](one.answer, one.question.right_answers) for one in members
            )
            / len(members)
            for name in metrics
        },
    )


def _score_of_group(scores: Sequence[Score], like: Score) -> Score | None:
    wanted = (like.group, like.is_total)
    return next((score for score in scores if (score.group, score.is_total) == wanted), None)


def _format_mean(score: Score | None, metric: str) -> str:
    return "-" if score is None else f"{100 * score.means[metric]:.1f}"


def _format_accuracy(score: Score | None) -> str:
    if score is None:
        return "-"
    low, high = score.interval
    return f"{100 * score.accuracy:.1f} ({100 * low:.0f}-{100 * high:.0f})"
