"""Rows for added ids in a decoder's embedding table and head."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel


def cover_ids(decoder: PreTrainedModel, *, num_ids: int, image_token_id: int) -> None:
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
        decoder.resize_token_embeddings(num_ids, mean_resizing=False)
    fresh = sorted({image_token_id, *range(num_known, num_ids)})
    known = torch.tensor([i for i in range(num_known) if i != image_token_id])
    for module in (decoder.get_input_embeddings(), decoder.get_output_embeddings()):
        with torch.no_grad():
            module.weight[fresh] = module.weight[known].float().mean(dim=0).to(module.weight.dtype)
