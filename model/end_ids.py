"""The ids that end a text: a decoder may have several, and all of them must stop an answer."""

from __future__ import annotations

from collections.abc import Iterable

from transformers import PreTrainedModel


def read_end_ids(model: PreTrainedModel) -> list[int]:
    """Return the ids that end what a model generates, by its configurations, in their order."""
    stated = [model.generation_config.eos_token_id, model.config.get_text_config().eos_token_id]
    found: dict[int, None] = {}
    for ids in stated:
        for one in ids if isinstance(ids, list | tuple) else [ids]:
            if isinstance(one, int):
                found[one] = None
    return list(found)


def add_end_ids(model: PreTrainedModel, ids: Iterable[int]) -> None:
    """Let ids end what a model generates, beside those that do already; they are saved with it."""
    merged = list(dict.fromkeys([*read_end_ids(model), *ids]))
    model.generation_config.eos_token_id = merged if len(merged) > 1 else next(iter(merged), None)
