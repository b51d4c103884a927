"""Scores of one answer, from 0 to 1: exact match, VQA accuracy, ROUGE-L."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from vchat.base.cli import WrongUse


def normalise_answer(text: str) -> str:
    """Strip blanks, fold case, and drop one final full stop; nothing else is changed."""
    return text.strip().casefold().removesuffix(".").rstrip()


def exact_match(answer: str, wanted: Sequence[str]) -> float:
    """Return 1 if the answer equals the first wanted one after `normalise_answer`, else 0."""
    return float(normalise_answer(answer) == normalise_answer(wanted[0]))


def vqa_accuracy(answer: str, wanted: Sequence[str]) -> float:
    """Return the VQA accuracy: a third for each person who gave this answer, at most 1.

    The mean over leaving out each person in turn. With one wanted answer it is the exact match.
    Texts are compared after `normalise_answer`; the official evaluation also rewrites numerals,
    articles and contractions.
    """
    if len(wanted) == 1:
        return exact_match(answer, wanted)
    same = [normalise_answer(answer) == normalise_answer(one) for one in wanted]
    return sum(min(1.0, (sum(same) - one) / 3) for one in same) / len(wanted)


def rouge_l(answer: str, wanted: Sequence[str]) -> float:
    """Return ROUGE-L, the best over the wanted answers.

    The F measure of the longest common subsequence of words, by the package rouge-score.
    """
    scorer = _rouge_scorer()
    return max(float(scorer.score(one, answer)["rougeL"].fmeasure) for one in wanted)


@functools.cache
def _rouge_scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]
    except ImportError as err:
        raise WrongUse(
            "--metric rouge-l: rouge-score is not installed; pip install 'vchat[eval]'"
        ) from err
    return RougeScorer(["rougeL"], use_stemmer=True)


METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "exact": exact_match,
    "vqa": vqa_accuracy,
    "rouge-l": rouge_l,
}
