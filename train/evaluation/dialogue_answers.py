"""Answer evaluation dialogues round by round, and score the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vchat.train.chat.chat_model import ChatModel
from vchat.train.chat.generation import Sampling
from vchat.train.chat.session import ChatSession, EndReason
from vchat.train.evaluation.dialogue_questions import EvaluationDialogue, EvaluationRound
from vchat.train.evaluation.metrics import METRICS


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredRound:
    """One round and what the model answered."""

    dialogue: str
    asked: EvaluationRound
    answer: str
    ended: bool
    """False if the answer was cut: at the maximum of new tokens, or of the model's positions."""

    scores: dict[str, float]
    """By metric, 0 to 1; empty if the file gives no right answer."""


def answer_dialogues(
    chat_model: ChatModel,
    dialogues: Sequence[EvaluationDialogue],
    *,
    max_new_tokens: int,
    metrics: Sequence[str],
    on_answered: Callable[[int], None] = lambda number: None,
) -> list[AnsweredRound]:
    """Answer every round greedily, after the rounds before it with the model's own answers.

    Args:
        chat_model: The model.
        dialogues: What is asked.
        max_new_tokens: Most tokens of an answer.
        metrics: Names of `METRICS`.
        on_answered: Called with the number of new answers.

    Raises:
        ValueError: An image is undecodable or a dialogue outgrows the model; names the round.
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
    """Return for each metric its mean and the number of scored rounds."""
    scored = [one.scores for one in answered if one.scores]
    if not scored:
        return {}
    means = {name: sum(one[name] for one in scored) / len(scored) for name in scored[0]}
    return {name: {"rounds": len(scored), "mean": mean} for name, mean in means.items()}


def _score_answer(answer: str, wanted: str | None, *, metrics: Sequence[str]) -> dict[str, float]:
    return {} if wanted is None else {name: METRICS[name](answer, [wanted]) for name in metrics}
