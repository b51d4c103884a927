"""Attention as the published code computes it, only for running checkpoints that it trained.

It differs from the published description and looks ahead: image positions attend to the text before
them, and rows before the first image see a mean over later image positions. It is dense: every
query has a score for every key.

B rows, K keys, Q queries, H query heads, G key heads, d head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vchat.model.attention import IMAGE, PAD, TEXT
from vchat.model.cached_layout import place_attended, query_blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedLayout:
    """As a cached layout, for what the published code computes; without a cache, K = S."""

    queries: Tensor
    """int64[Q]: the columns among the newest, all of them."""

    attends: Tensor
    """bool[B, Q]: whether a query is no padding."""

    text_keys: Tensor
    """bool[B, Q, K]: the keys each query sees in the softmax of text."""

    image_keys: Tensor
    """bool[B, Q, K]: the keys each query sees in the softmax of images."""

    longest: int
    """Keys of a row."""

    own_values: Tensor
    """bool[B, Q, K]: keys whose value a query takes whole, beside both softmaxes."""

    levelled: tuple[Tensor, Tensor]
    """bool[B, Q, 1] for text and image: queries that weigh all their keys equally."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, scale: float) -> Tensor:
        """Attend from the newest positions to all keys: float[B, S, H, d]."""
        blocks = query_blocks(query, key, num_queries=len(self.queries))
        attended = [self._attend_block(query, key, value, one, scale=scale) for one in blocks]
        return place_attended(
            attended, value, queries=self.queries, attends=self.attends, like=query
        )

    def _attend_block(
        self, query: Tensor, key: Tensor, value: Tensor, block: slice, *, scale: float
    ) -> Tensor:
        """Return float[B, Q, H, d] of a block of the queries: one softmax per kind of key."""
        query = query.index_select(2, self.queries[block])
        num_rows, num_heads, num_queries, width = query.shape
        groups = (num_rows, key.shape[1], num_heads // key.shape[1], num_queries)
        grouped = query.reshape(*groups[:2], -1, width)
        scores = (grouped @ key.transpose(2, 3)).view(*groups, -1).float() * scale
        weights = self.own_values[:, None, None, block].float()
        for mask, levelled in zip((self.text_keys, self.image_keys), self.levelled, strict=True):
            weights = weights + _masked_softmax(
                scores, mask[:, None, None, block], levelled[:, None, None, block]
            )
        attended = weights.to(value.dtype).flatten(2, 3) @ value
        return attended.view(num_rows, num_heads, num_queries, width).transpose(1, 2)


def make_published_layout(kinds: Tensor, segments: Tensor, *, num_new: int) -> PublishedLayout:
    """Return the layout of the published code, which differs from the paper and looks ahead.

    Image positions attend to the text before them, beside their own value. Where a softmax has no
    key at all, both of its masks cancel out, and the query gets the mean over the earlier keys of
    the other kind and the later keys of this kind. Arguments as for `make_cached_layout`.
    """
    num_keys = kinds.shape[1]
    keys = torch.arange(num_keys, device=kinds.device)
    queries = keys[num_keys - num_new :]
    asking = kinds[:, queries, None]
    same = (segments[:, queries, None] == segments[:, None, :]) & (asking != PAD)
    before = keys <= queries[:, None]
    itself = (keys == queries[:, None]) & (asking == IMAGE)
    text, image = (same & (kinds == kind)[:, None] & before for kind in (TEXT, IMAGE))
    no_text = ~text.any(dim=-1, keepdim=True)
    no_image = ~image.any(dim=-1, keepdim=True)
    return PublishedLayout(
        queries=queries - (num_keys - num_new),
        attends=kinds[:, queries] != PAD,
        text_keys=torch.where(no_text, same & (before ^ (kinds == TEXT)[:, None]), text),
        image_keys=torch.where(no_image, same & (before ^ (kinds == IMAGE)[:, None]), image)
        & (asking == TEXT),
        longest=num_keys,
        own_values=itself,
        levelled=(no_text, no_image),
    )


def _masked_softmax(scores: Tensor, mask: Tensor, levelled: Tensor) -> Tensor:
    """Softmax of the last dimension over the keys in `mask`; 0 where a query has none.

    Where `levelled` holds, the scores count as equal, but gradients reach them all the same: the
    published code adds masks so low that they round the scores away.
    """
    scores = torch.where(levelled, scores - scores.detach(), scores)
    weights = scores.masked_fill(~mask, -torch.inf).softmax(dim=-1)
    return weights.masked_fill(~mask, 0.0)
