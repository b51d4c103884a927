"""Preparing a causal language model as the decoder: its attention, and rows for added ids."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from vchat.model.attention import register_attention
from vchat.model.decoder_families import check_decoder
from vchat.model.partitioning import gather_weights


def use_attention(decoder: PreTrainedModel, name: str) -> None:
    """Make every layer of `decoder` call our attention, registered as `name`.

    Raises:
        ValueError: this attention does not compute the decoder exactly, see `decoder_families.py`,
            or its logits are more than one linear map of the last hidden states.
    """
    check_decoder(decoder.config)
    register_attention()
    decoder.set_attn_implementation(name)
    if not isinstance(decoder.get_output_embeddings(), nn.Linear):
        raise ValueError(f"{type(decoder).__name__} has no linear output head")


def fit_vocabulary(decoder: PreTrainedModel, *, num_ids: int, image_token_id: int) -> None:
    """Give the decoder a row for each of `num_ids` ids, in its table and in its head.

    A table that is already larger keeps its size. Added rows, and the row of the image slot, which
    no text ever uses, become the mean of the rows before: a new id is then as likely as an average
    one, where random rows could dominate the softmax of a trained head.

    Raises:
        ValueError: the image slot's id is not below `num_ids`.
    """
    if not 0 <= image_token_id < num_ids:
        raise ValueError(
            f"the image slot's id must be from 0 to {num_ids - 1}, got {image_token_id}"
        )
    num_known = min(decoder.get_input_embeddings().num_embeddings, num_ids)
    if num_known < num_ids:
        with torch.random.fork_rng(devices=[]):  # the library draws rows that are replaced below
            decoder.resize_token_embeddings(num_ids, mean_resizing=False)
    fresh = sorted({image_token_id, *range(num_known, num_ids)})
    known = torch.tensor([i for i in range(num_known) if i != image_token_id])
    for module in (decoder.get_input_embeddings(), decoder.get_output_embeddings()):
        for rows in module.parameters(recurse=False):
            with torch.no_grad(), gather_weights([rows], changed_by_rank_0=True):
                rows[fresh] = rows[known].float().mean(dim=0).to(rows.dtype)
