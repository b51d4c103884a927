"""A batch of rows that extends a KV cache, and attention to the cached keys.

The rows stay as they are, because the cache is per row.

B rows, S new positions, K keys (cached and new), Q queries, H query heads, G key heads, d head
width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from vchat.model.attention import IMAGE, TEXT, repeat_heads, visible_keys

MANY_QUERIES = 8
"""From this many queries on, separating text keys from image keys costs less than masking."""

SCORES_PER_BLOCK = 2**24
"""How many scores exist at one time while decoding many tokens with a cache."""


class DialogueCache(DynamicCache):  # type: ignore[misc]
    """A KV cache that also knows, for each key, its kind, its dialogue and its position in its row.

    The decoder's own cache holds keys and values only; which softmax a key belongs to cannot be
    told from them. Keys of images that were computed before stand in front of the text around them.
    """

    def __init__(self) -> None:
        """Start empty; the first `remember` fixes the number of rows."""
        super().__init__()
        self.kinds: Tensor | None = None
        self.segments: Tensor | None = None
        self.positions: Tensor | None = None

    def remember(
        self, kinds: Tensor, segments: Tensor, *, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Append int64[B, S] of new positions and return all so far, int64[B, K] each.

        Args:
            positions: where they stand in their rows, from the row start; None is
                one after the other, behind all that are cached.
        """
        if positions is None:
            cached = 0 if self.kinds is None else self.kinds.shape[1]
            positions = torch.arange(kinds.shape[1], device=kinds.device).expand_as(kinds) + cached
        if self.kinds is not None and self.segments is not None and self.positions is not None:
            kinds = torch.cat([self.kinds, kinds], dim=1)
            segments = torch.cat([self.segments, segments], dim=1)
            positions = torch.cat([self.positions, positions], dim=1)
        self.kinds, self.segments, self.positions = kinds, segments, positions
        return kinds, segments, positions

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Make row i a copy of row `beam_idx[i]`, which beam search asks for."""
        super().reorder_cache(beam_idx)
        if self.kinds is not None and self.segments is not None and self.positions is not None:
            self.kinds, self.segments = self.kinds[beam_idx], self.segments[beam_idx]
            self.positions = self.positions[beam_idx]

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the newest -`tokens_to_remove` positions of every row; the number is negative."""
        super().crop(tokens_to_remove)
        if tokens_to_remove < 0:
            for name in ("kinds", "segments", "positions"):
                cached = getattr(self, name)
                setattr(self, name, None if cached is None else cached[:, :tokens_to_remove])


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySet:
    """The cached keys of one kind, as the newest queries see them."""

    columns: Tensor | None
    """int64[k]: which of the K keys these are; None is all, those of other kinds masked."""

    mask: Tensor | None
    """bool[B, Q, k]: the keys each query sees; None is all."""

    seen: Tensor
    """bool[B, Q]: whether a query sees any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedLayout:
    """The newest S positions of rows whose K keys, these included, are in the cache."""

    queries: Tensor
    """int64[Q]: the columns among the S that hold a text position in at least one row."""

    attends: Tensor
    """bool[B, Q]: whether a query attends in its row; the others pass their own value on."""

    key_sets: tuple[KeySet, ...]
    """Text keys and image keys: a softmax over each. A set that nobody sees is left out."""

    longest: int
    """Keys of a row."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, scale: float) -> Tensor:
        """Attend from the newest positions to the whole cache: float[B, S, H, d]."""
        blocks = query_blocks(query, key, num_queries=len(self.queries))
        attended = [self._attend_block(query, key, value, one, scale=scale) for one in blocks]
        return place_attended(
            attended, value, queries=self.queries, attends=self.attends, like=query
        )

    def _attend_block(
        self, query: Tensor, key: Tensor, value: Tensor, block: slice, *, scale: float
    ) -> Tensor:
        """Return float[B, Q, H, d] of a block of the queries: the sum over its key sets."""
        query = query.index_select(2, self.queries[block])
        output = torch.zeros_like(query)
        for one in self.key_sets:
            keys, values = (
                x if one.columns is None else x.index_select(2, one.columns) for x in (key, value)
            )
            attended = functional.scaled_dot_product_attention(
                query,
                keys,
                values,
                attn_mask=None if one.mask is None else one.mask[:, None, block],
                scale=scale,
                enable_gqa=query.shape[1] != key.shape[1],
            )
            output = output + attended.masked_fill(~one.seen[:, None, block, None], 0.0)
        return output.transpose(1, 2)


def make_cached_layout(
    kinds: Tensor, segments: Tensor, *, num_new: int, positions: Tensor | None = None
) -> CachedLayout:
    """Return the layout of the newest `num_new` positions.

    Args:
        kinds: int64[B, K] of all keys, the new ones last.
        segments: int64[B, K], of the same keys.
        positions: int64[B, K], where each key stands in its row; None is in the order of the keys.
    """
    first = kinds.shape[1] - num_new
    queries = (kinds[:, first:] == TEXT).any(dim=0).nonzero()[:, 0]
    masks = visible_keys(kinds, segments, queries=queries + first, positions=positions)
    apart = len(kinds) == 1 and len(queries) >= MANY_QUERIES
    sets = [
        _key_set(mask, columns=(kinds[0] == kind).nonzero()[:, 0] if apart else None)
        for kind, mask in zip((TEXT, IMAGE), masks, strict=True)
    ]
    return CachedLayout(
        queries=queries,
        attends=kinds[:, queries + first] == TEXT,
        key_sets=tuple(one for one in sets if bool(one.seen.any())),
        longest=kinds.shape[1],
    )


def _key_set(mask: Tensor, *, columns: Tensor | None) -> KeySet:
    """Return the keys of one kind, from bool[B, Q, K]; a mask that hides nothing is dropped."""
    seen = mask.any(dim=-1)
    if columns is not None:
        mask = mask.index_select(2, columns)
    return KeySet(columns=columns, mask=None if bool(mask.all()) else mask, seen=seen)


def query_blocks(query: Tensor, key: Tensor, *, num_queries: int) -> list[slice]:
    """Return slices of the queries, so that the scores of one slice fit into bounded memory.

    Args:
        query: float[B, H, S, d].
        key: float[B, G, K, d].
        num_queries: Q.
    """
    num_rows, num_heads = query.shape[:2]
    size = max(1, SCORES_PER_BLOCK // (num_rows * num_heads * key.shape[2]))
    return [slice(start, start + size) for start in range(0, num_queries, size)]


def place_attended(
    blocks: Sequence[Tensor], value: Tensor, *, queries: Tensor, attends: Tensor, like: Tensor
) -> Tensor:
    """Return float[B, S, H, d]: what the queries attended, elsewhere the positions' own values.

    Args:
        blocks: float[B, q, H, d] each, Q queries in all.
        value: float[B, G, K, d], the new positions last.
        queries: int64[Q], columns among the new positions.
        attends: bool[B, Q], whether a query attends in its row.
        like: float[B, H, S, d].
    """
    num_heads, length = like.shape[1:3]
    output = repeat_heads(value[:, :, -length:], num_heads=num_heads).transpose(1, 2)
    if not blocks:
        return output
    new = torch.cat(list(blocks), dim=1)
    merged = torch.where(attends[..., None, None], new, output[:, queries])
    return output.index_copy(1, queries, merged)
