"""Running the decoder over rows of embeddings, without its head.

Three ways, by what is wanted: the hidden states of all positions, those that predict a supervised
token, or those of positions that extend a cache.

B rows, S positions, D decoder width, T supervised positions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vchat.model.layout import (
    DialogueCache,
    FlatLayout,
    Layout,
    PrefillLayout,
    cached_layout,
    flat_layout,
    positions_in_segments,
    published_layout,
)

IGNORED = -100
"""The label of a position that carries no loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A batch of rows, ready for the decoder."""

    embeddings: Tensor
    """float[B, S, D], image features at their slots."""

    kinds: Tensor
    """int64[B, S]: PAD, TEXT or IMAGE."""

    segments: Tensor
    """int64[B, S]: 0 for padding, else the dialogue of the row."""

    position_ids: Tensor | None
    """int64[B, S] or [1, S]; None counts them per segment."""

    def positions(self) -> Tensor:
        """Return int64[B, S]."""
        if self.position_ids is None:
            return positions_in_segments(self.segments)
        return self.position_ids.expand_as(self.segments)


def decode_all(decoder: PreTrainedModel, rows: Rows, *, published: bool) -> Tensor:
    """Return the last hidden states of every position, float[B, S, D]; of padding, anything."""
    if published:
        layout = published_layout(rows.kinds, rows.segments, num_new=rows.kinds.shape[1])
        return _run_decoder(decoder, rows.embeddings, rows.positions(), layout)
    flat = flat_layout(rows.kinds, rows.segments)
    hidden = _decode_flat(decoder, rows, flat)
    everywhere = hidden.new_zeros(rows.kinds.numel(), hidden.shape[-1])
    return everywhere.index_copy(0, flat.order, hidden).view(*rows.kinds.shape, -1)


def decode_predictors(
    decoder: PreTrainedModel, rows: Rows, labels: Tensor, *, published: bool, skip_images: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what predicts the supervised tokens, float[T, D], these tokens, and their places.

    The tokens are int64[T], row by row; their places in `labels` int64[T, 2], row and column.

    A token is predicted from the position before it, which must be of the same dialogue.

    Args:
        labels: int64[B, S], the id itself where it is supervised, -100 elsewhere.
        skip_images: the last layer has been made to drop rows, see `last_layer.py`.
    """
    of_same = rows.segments[:, 1:] == rows.segments[:, :-1]
    row, column = ((labels[:, 1:] != IGNORED) & of_same).nonzero(as_tuple=True)
    targets, indices = labels[row, column + 1], torch.stack([row, column + 1], dim=1)
    if published:
        return decode_all(decoder, rows, published=True)[row, column], targets, indices
    flat = flat_layout(rows.kinds, rows.segments)
    index = flat.index_of(row * labels.shape[1] + column, batch_size=labels.numel())
    if skip_images:
        flat, index = _skip_unread_images(flat, index)
    return _decode_flat(decoder, rows, flat).index_select(0, index), targets, indices


def decode_newest(
    decoder: PreTrainedModel,
    rows: Rows,
    cache: DialogueCache,
    *,
    published: bool,
    positions: Tensor | None = None,
    text_layout: FlatLayout | None = None,
) -> Tensor:
    """Extend the cache by rows, in place, and return their last hidden states, float[B, S, D].

    Args:
        positions: int64[B, S], where they stand in their rows; None is behind all that is cached.
        text_layout: the layout of one row of text whose images are all that is cached.
    """
    num_new = rows.kinds.shape[1]
    is_first = cache.get_seq_length() == 0
    kinds, segments, positions = cache.remember(rows.kinds, rows.segments, positions=positions)
    position_ids = rows.position_ids
    if position_ids is None:
        position_ids = ((segments != 0).cumsum(dim=1) - 1).clamp(min=0)[:, -num_new:]
    layout: Layout
    if published:
        layout = published_layout(kinds, segments, num_new=num_new)
    elif text_layout is not None:
        layout = text_layout
    elif is_first:
        layout = PrefillLayout(flat=flat_layout(kinds, segments))
    else:
        layout = cached_layout(kinds, segments, num_new=num_new, positions=positions)
    return _run_decoder(decoder, rows.embeddings, position_ids, layout, cache)


def _skip_unread_images(flat: FlatLayout, index: Tensor) -> tuple[FlatLayout, Tensor]:
    """Return the layout that keeps image rows only if read, and where the read rows then stand.

    Args:
        index: int64[T], the rows that are read.
    """
    is_image = index < flat.num_image
    kept = index[is_image]
    moved = index - flat.num_image + len(kept)
    moved[is_image] = torch.arange(len(kept), device=index.device)
    return replace(flat, kept_images=kept), moved


def _decode_flat(decoder: PreTrainedModel, rows: Rows, flat: FlatLayout) -> Tensor:
    """Return float[N, D], the hidden states of a flat row, or of those the last layer keeps."""
    embeddings = rows.embeddings.flatten(0, 1).index_select(0, flat.order)[None]
    return _run_decoder(decoder, embeddings, rows.positions().flatten()[flat.order][None], flat)[0]


def _run_decoder(
    decoder: PreTrainedModel,
    embeddings: Tensor,
    position_ids: Tensor,
    layout: Layout,
    cache: DialogueCache | None = None,
) -> Tensor:
    """Run the decoder's layers and its final norm: float[B, S, D] to float[B, S, D]."""
    output = decoder.get_decoder()(
        inputs_embeds=embeddings,
        position_ids=position_ids,
        past_key_values=cache,
        use_cache=cache is not None,
        layout=layout,
    )
    hidden: Tensor = output.last_hidden_state
    return hidden
