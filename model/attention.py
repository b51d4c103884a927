"""Multi-modal causal attention (MMCA): who sees whom, and the function that decoder layers call.

For query t with score S_ts = q_t . k_s * scale over the keys s <= t of its own dialogue:

    text t:   o_t = softmax(S_t over text) V + softmax(S_t over images) V, 0 without images
    image t:  o_t = v_t

For one dialogue of text image image text, row t shows the keys that query t sees:

    text keys   [[1 0 0 0]    image keys   [[0 0 0 0]
                 [0 0 0 0]                  [0 0 0 0]
                 [0 0 0 0]                  [0 0 0 0]
                 [1 0 0 1]]                 [0 1 1 0]]

A text position sees the text up to itself and the images before it, of its own dialogue. An image
position sees nothing, so it costs no scores: its output is its own value. Padding sees nothing and
is not seen. `causal` is the same computation with every position counted as text.
`mmca_published` is what the published code computes, see `published/`.

A layout says who sees whom in one batch and attends accordingly: `flat_layout.py` without a KV
cache, `cached_layout.py` with one. It is made once per batch; `VisualChat` hands it to the decoder
as a keyword argument, and every layer passes it on to `attend`. The decoder's own mask is never
built.

B rows, H query heads, G key heads (G divides H), S positions, K keys, Q queries, d head width.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from vchat.model.config import ATTENTIONS

PAD, TEXT, IMAGE = 0, 1, 2


class Layout(Protocol):
    """Who sees whom in a batch."""

    @property
    def longest(self) -> int:
        """Positions of the longest dialogue."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, scale: float) -> Tensor:
        """Return float[B, S, H, d], from float[B, H, S, d] and float[B, G, K, d]."""


def register_attention() -> None:
    """Make our attention known to transformers under the names in `ATTENTIONS`."""
    for name in ATTENTIONS:
        AttentionInterface.register(name, attend)
        AttentionMaskInterface.register(name, no_mask)


def no_mask(*_: object, **__: object) -> None:
    """Return no mask for the decoder: the layout takes its place."""
    return


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    layout: Layout | None = None,
    dropout: float = 0.0,
    **options: object,
) -> tuple[Tensor, None]:
    """The attention function that a decoder layer calls.

    Args:
        query: float[B, H, S, d], after rotary embedding.
        key, value: float[B, G, K, d]; K = S unless there is a cache.
        layout: who sees what; required.
        options: whatever else the layer passes on.

    Returns:
        float[B, S, H, d], and None for the weights, which never exist.

    Raises:
        ValueError: the layer asks for something that MMCA does not define.
    """
    if layout is None:
        raise ValueError("this attention needs a layout: call VisualChat, not its decoder")
    if dropout > 0.0:
        raise ValueError(f"attention dropout must be 0, the decoder's configuration has {dropout}")
    _refuse_undefined(options, layout, asked_by=type(module).__name__)
    return layout.attend(query, key, value, scale=scaling), None


def _refuse_undefined(options: dict[str, object], layout: Layout, *, asked_by: str) -> None:
    """Refuse what a layer asks for and MMCA does not define.

    Raises:
        ValueError: soft-capped scores, sinks, a position bias, or a sliding window that is shorter
            than a dialogue.
    """
    for name in ("softcap", "s_aux", "position_bias"):
        if options.get(name) is not None:
            raise ValueError(f"{asked_by} wants {name}, which MMCA does not define")
    window = options.get("sliding_window")
    if isinstance(window, int) and layout.longest > window:
        raise ValueError(
            f"a dialogue of {layout.longest} positions is longer than the decoder's sliding window "
            f"of {window}: text would lose sight of its images"
        )


def kinds_of(image_slots: Tensor, segments: Tensor, *, mixed: bool) -> Tensor:
    """Return int64[B, S]: PAD outside of any segment, IMAGE at slots, TEXT elsewhere.

    With `mixed` False (plain causal attention) image positions count as TEXT.
    """
    kinds = torch.where(image_slots & mixed, IMAGE, TEXT)
    return kinds.masked_fill(segments == 0, PAD)


def visible_keys(
    kinds: Tensor, segments: Tensor, *, queries: Tensor, positions: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return which keys each query sees, as `(text, image)`, both bool[B, Q, K].

    The drawing at the top of this file shows both.

    Args:
        kinds: int64[B, K], PAD, TEXT or IMAGE.
        segments: int64[B, K], which dialogue of its row a key belongs to.
        queries: int64[Q], the columns that ask.
        positions: int64[B, K], where each key stands in its row; None is in column order.
    """
    if positions is None:
        positions = torch.arange(kinds.shape[1], device=kinds.device)[None]
    seen = positions[:, None, :] <= positions[:, queries, None]
    seen = seen & (segments[:, queries, None] == segments[:, None, :])
    seen = seen & (kinds[:, queries, None] == TEXT)
    return seen & (kinds == TEXT)[:, None], seen & (kinds == IMAGE)[:, None]


def repeat_heads(value: Tensor, *, num_heads: int) -> Tensor:
    """Return float[B, G, S, d] as float[B, H, S, d]: for every query head its own."""
    if value.shape[1] == num_heads:
        return value
    return value.repeat_interleave(num_heads // value.shape[1], dim=1)
