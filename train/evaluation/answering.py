"""Answer many questions at once: greedy, in batches of prompts of one length.

In: a model and evaluation questions. Out: each question with the model's answer, in the given
order, equal to asking one by one. A batch holds prompts of one length, so there is no padding.
B rows, S positions, V ids.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from vchat.train.chat.chat_model import ChatModel, tower_inputs
from vchat.train.chat.generation import Sampling, next_ids
from vchat.train.evaluation.questions import Question
from vchat.train.evaluation.scoring import AnsweredQuestion

T = TypeVar("T")

GREY = 128
"""The value of every pixel of a blank image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """How many prompts are answered together. Changes speed and memory, never an answer."""

    rows: int = 32
    """Most prompts in one batch."""

    positions: int = 16_384
    """Most positions in one batch, prompts and answers together."""


def answer_questions(
    chat_model: ChatModel,
    questions: Sequence[Question],
    *,
    max_new_tokens: int,
    batching: Batching,
    blank: bool = False,
    on_answered: Callable[[int], None] = lambda number: None,
) -> list[AnsweredQuestion]:
    """Answer each question in a dialogue of its own.

    Args:
        chat_model: The model.
        questions: What is asked.
        max_new_tokens: Most tokens of an answer.
        batching: How many prompts go together.
        blank: Show grey images in place of the questions' own.
        on_answered: Called with the number of new answers.

    Raises:
        ValueError: A prompt with its answer does not fit the model's positions, or an image is
            undecodable; names the question.
    """
    prompts = [_prompt(chat_model, one, max_new_tokens=max_new_tokens) for one in questions]
    results: dict[int, AnsweredQuestion] = {}
    lengths = [len(prompt) + max_new_tokens for prompt in prompts]
    for members in equal_length_batches(lengths, batching=batching):
        show = _grey_images if blank else _own_images
        images = [image for i in members for image in show(chat_model, questions[i])]
        generated = decode_greedily(
            chat_model,
            [prompts[i] for i in members],
            pixels=torch.cat([tower_inputs(image) for image in images]) if images else None,
            max_new_tokens=max_new_tokens,
        )
        for i, ids in zip(members, generated, strict=True):
            results[i] = _to_answer(chat_model, questions[i], ids)
        on_answered(len(members))
    return [results[i] for i in range(len(questions))]


def equal_length_batches(lengths: Sequence[int], *, batching: Batching) -> Iterator[list[int]]:
    """Yield every index once, in batches of one length within the limits, at least one each."""
    by_length: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        by_length.setdefault(length, []).append(i)
    for length, members in sorted(by_length.items()):
        size = max(1, min(batching.rows, batching.positions // length))
        for start in range(0, len(members), size):
            yield members[start : start + size]


def decode_greedily(
    chat_model: ChatModel,
    prompts: Sequence[list[int]],
    *,
    pixels: Tensor | None,
    max_new_tokens: int,
) -> list[list[int]]:
    """Continue prompts of one length by the likeliest ids, up to and with an end token.

    Args:
        chat_model: The model.
        prompts: B lists of S ids, slots repeated.
        pixels: uint8[N, 3, H, W] in the order of the slots, prompt by prompt.
        max_new_tokens: Most ids per prompt.
    """
    model, tokenizer = chat_model.model, chat_model.tokenizer
    ids = torch.tensor(list(prompts), device=model.device)
    pixels = None if pixels is None else pixels.to(model.device)
    sampling = Sampling(max_new_tokens=max_new_tokens)
    cache, columns = None, []
    end_ids = chat_model.end_ids
    ends = torch.tensor(sorted(end_ids), device=model.device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=model.device)
    for _ in range(max_new_tokens):
        logits, cache = model.extend(cache, ids, pixels)
        chosen = next_ids(
            logits, sampling, slot_id=tokenizer.image_id, num_ids=tokenizer.num_ids
        ).masked_fill(ended, chat_model.end_id)
        columns.append(chosen)
        ended |= torch.isin(chosen, ends)
        if bool(ended.all()):
            break
        ids, pixels = chosen[:, None], None
    rows = torch.stack(columns, dim=1).tolist()
    return [_cut_after_end(row, end_ids) for row in rows]


def _grey_images(chat_model: ChatModel, question: Question) -> list[Tensor]:
    """Return a grey image for each of the question's images, with as many tiles."""
    side = chat_model.image_size
    return [
        torch.full((inputs, 3, side, side), GREY, dtype=torch.uint8)
        for inputs in _num_inputs(chat_model, question)
    ]


def _own_images(chat_model: ChatModel, question: Question) -> list[Tensor]:
    """Decode the question's images."""
    return _map_images(question, chat_model.decode_picture)


def _num_inputs(chat_model: ChatModel, question: Question) -> list[int]:
    """Return how many tower inputs each of the question's images takes."""
    return _map_images(question, chat_model.num_inputs)


def _map_images(question: Question, value: Callable[[bytes], T]) -> list[T]:
    """Return a value of each image file's bytes.

    Raises:
        ValueError: `value` raised it; the message names question and file.
    """
    values = []
    for path in question.images:
        try:
            values.append(value(path.read_bytes()))
        except ValueError as err:
            raise ValueError(f"question {question.id!r}: {path}: {err}") from err
    return values


def _prompt(chat_model: ChatModel, question: Question, *, max_new_tokens: int) -> list[int]:
    num_images = len(question.images)
    template = chat_model.template
    parts = template.opening()
    parts += template.round(question.question, None, num_images=num_images, first_image=1)
    ids = chat_model.prompt_ids(parts, inputs=_num_inputs(chat_model, question))
    needed, most = len(ids) + max_new_tokens, chat_model.max_positions
    if needed > most:
        raise ValueError(
            f"question {question.id!r} takes {len(ids)} positions and its answer up to"
            f" {max_new_tokens}, wanted at most {most} in all"
        )
    return ids


def _cut_after_end(ids: list[int], end_ids: Collection[int]) -> list[int]:
    """Cut ids after the first token that ends an answer, if there is one."""
    end = next((i for i, one in enumerate(ids) if one in end_ids), len(ids) - 1)
    return ids[: end + 1]


def _to_answer(chat_model: ChatModel, question: Question, ids: list[int]) -> AnsweredQuestion:
    ended = ids[-1] in chat_model.end_ids
    text = chat_model.tokenizer.decode(ids[:-1] if ended else ids)
    return AnsweredQuestion(question=question, answer=text, ended=ended)
