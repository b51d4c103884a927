"""Running the decoder over rows of embeddings, without its head.

There are three ways: the hidden states of all positions, those that predict a supervised
token, or those of positions that extend a cache.

B rows, S positions, D decoder width, T supervised positions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vchat.model.attention import Layout
from vchat.model.cached_layout import DialogueCache, make_cached_layout
from vchat.model.decoder_families import find_longest_dialogue
from vchat.model.flat_layout import FlatLayout, PrefillLayout, make_flat_layout

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

    def newest_positions(self, segments: Tensor) -> Tensor:
        """Return int64[B, S]: those given, else counted behind what is cached.

        Args:
            segments: int64[B, K], of the cached positions and these.
        """
        if self.position_ids is not None:
            return self.position_ids
        counted = ((segments != 0).cumsum(dim=1) - 1).clamp(min=0)
        return counted[:, -self.kinds.shape[1] :]


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictors:
    """What predicts the supervised tokens of a batch, row by row."""

    hidden: Tensor
    """float[T, D], of the position before each token."""

    targets: Tensor
    """int64[T], the tokens."""

    target_indices: Tensor
    """int64[T, 2], the row and the column of each token's label."""


class Decoding(Protocol):
    """How a decoder runs over rows."""

    def decode_all(self, rows: Rows) -> Tensor:
        """Return the last hidden states of every position, float[B, S, D]; of padding, anything."""

    def decode_predictors(self, rows: Rows, labels: Tensor) -> Predictors:
        """Return what predicts the supervised tokens.

        A token is predicted from the position before it, which must be of the same dialogue.

        Args:
            rows: the batch.
            labels: int64[B, S], the id itself where it is supervised, -100 elsewhere.
        """

    def decode_newest(self, rows: Rows, cache: DialogueCache) -> Tensor:
        """Extend the cache by rows, in place; return their last hidden states, float[B, S, D]."""


@dataclass(frozen=True, slots=True)
class FlatDecoding:
    """Runs rows as one flat row, or behind a cache: `mmca` and `causal`."""

    decoder: PreTrainedModel

    skips_images: bool
    """Whether the last layer skips image positions that nothing reads, see `last_layer.py`."""

    def decode_all(self, rows: Rows) -> Tensor:
        """See `Decoding`."""
        flat = make_flat_layout(rows.kinds, rows.segments)
        hidden = _decode_flat(self.decoder, rows, flat)
        everywhere = hidden.new_zeros(rows.kinds.numel(), hidden.shape[-1])
        return everywhere.index_copy(0, flat.order, hidden).view(*rows.kinds.shape, -1)

    def decode_predictors(self, rows: Rows, labels: Tensor) -> Predictors:
        """See `Decoding`."""
        row, column = find_predictors(labels, rows.segments)
        flat = make_flat_layout(rows.kinds, rows.segments)
        index = flat.index_of(row * labels.shape[1] + column, batch_size=labels.numel())
        if self.skips_images:
            flat, index = _skip_unread_images(flat, index)
        hidden = _decode_flat(self.decoder, rows, flat).index_select(0, index)
        return predictors(hidden, labels, row, column)

    def decode_newest(
        self,
        rows: Rows,
        cache: DialogueCache,
        *,
        positions: Tensor | None = None,
        text_layout: FlatLayout | None = None,
    ) -> Tensor:
        """See `Decoding`.

        Args:
            rows: the new positions.
            cache: what comes before them.
            positions: int64[B, S], where they stand in their rows; None is behind all that is
                cached.
            text_layout: the layout of one row of text whose images are all that is cached.
        """
        is_first = cache.get_seq_length() == 0
        kinds, segments, positions = cache.remember(rows.kinds, rows.segments, positions=positions)
        num_new = rows.kinds.shape[1]
        layout: Layout
        if text_layout is not None:
            layout = text_layout
        elif is_first:
            layout = PrefillLayout(flat=make_flat_layout(kinds, segments))
        else:
            layout = make_cached_layout(kinds, segments, num_new=num_new, positions=positions)
        position_ids = rows.newest_positions(segments)
        return run_decoder(self.decoder, rows.embeddings, position_ids, layout, cache)


def find_predictors(labels: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows and columns, int64[T] each, of the positions that predict a supervised token."""
    of_same = segments[:, 1:] == segments[:, :-1]
    row, column = ((labels[:, 1:] != IGNORED) & of_same).nonzero(as_tuple=True)
    return row, column


def predictors(hidden: Tensor, labels: Tensor, row: Tensor, column: Tensor) -> Predictors:
    """Return the hidden states, float[T, D], of positions with the tokens behind them."""
    return Predictors(
        hidden=hidden,
        targets=labels[row, column + 1],
        target_indices=torch.stack([row, column + 1], dim=1),
    )


def read_segments(
    input_ids: Tensor, segment_ids: Tensor | None, attention_mask: Tensor | None
) -> Tensor:
    """Return int64[B, S]: 0 for padding, else the dialogue; from whichever of the two is given."""
    if segment_ids is not None:
        return segment_ids
    if attention_mask is None:
        return torch.ones_like(input_ids)
    return attention_mask[:, -input_ids.shape[1] :].to(torch.int64)


def positions_in_segments(segments: Tensor) -> Tensor:
    """Return int64[B, S]: the index of each position within its segment, 0 at padding.

    Args:
        segments: int64[B, S], 0 is padding; each segment stands in one piece.
    """
    index = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    first = torch.ones_like(segments, dtype=torch.bool)
    first[:, 1:] = segments[:, 1:] != segments[:, :-1]
    start = torch.where(first, index, 0).cummax(dim=1).values
    return (index - start).masked_fill(segments == 0, 0)


def _skip_unread_images(flat: FlatLayout, index: Tensor) -> tuple[FlatLayout, Tensor]:
    """Return the layout that keeps only image positions that are read, and the index of those read.

    Args:
        index: int64[T], the positions that are read.
    """
    is_image = index < flat.num_image
    kept = index[is_image]
    moved = index - flat.num_image + len(kept)
    moved[is_image] = torch.arange(len(kept), device=index.device)
    return replace(flat, kept_images=kept), moved


def _decode_flat(decoder: PreTrainedModel, rows: Rows, flat: FlatLayout) -> Tensor:
    """Return float[N, D], the hidden states of a flat row, or of those the last layer keeps."""
    embeddings = rows.embeddings.flatten(0, 1).index_select(0, flat.order)[None]
    return run_decoder(decoder, embeddings, rows.positions().flatten()[flat.order][None], flat)[0]


def run_decoder(
    decoder: PreTrainedModel,
    embeddings: Tensor,
    position_ids: Tensor,
    layout: Layout,
    cache: DialogueCache | None = None,
) -> Tensor:
    """Run the decoder's layers and its final norm: float[B, S, D] to float[B, S, D].

    Raises:
        ValueError: a dialogue is so long that the decoder would change its rotary frequencies for
            all dialogues of the batch.
    """
    longest = find_longest_dialogue(decoder.config)
    if longest is not None and layout.longest > longest:
        raise ValueError(
            f"a dialogue of {layout.longest} positions is longer than the {longest} up to which"
            " the decoder's rotary frequencies do not depend on the length"
        )
    output = decoder.get_decoder()(
        inputs_embeds=embeddings,
        position_ids=position_ids,
        past_key_values=cache,
        use_cache=cache is not None,
        layout=layout,
    )
    hidden: Tensor = output.last_hidden_state
    return hidden
