"""Multi-modal causal attention (MMCA), registered with transformers.

For query t with score S_ts = q_t . k_s * scale over the keys s <= t of its own dialogue:

    text t:   o_t = softmax(S_t over text) V + softmax(S_t over images) V, 0 without images
    image t:  o_t = v_t

So image positions cost no scores at all. `causal` is the same computation with every position
counted as text. `mmca_published` is what the published code computes, only for running checkpoints
that it trained: dense, and rows before the first image see a mean over later image positions.

Who attends to whom is decided once per batch, in `layout.py`; `VisualChat` hands the layout to the
decoder as a keyword argument, and every layer passes it on to `attend`. The decoder's own mask is
never built.

B rows, H query heads, G key heads (G divides H), S positions, K keys, N positions of a flat row,
d head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface

from vchat.model.config import ATTENTIONS
from vchat.model.layout import (
    CachedLayout,
    CollectingLayout,
    FlatDialogue,
    FlatLayout,
    Layout,
    PrefillLayout,
    PublishedLayout,
)
from vchat.model.varlen import Sequences, attend_sequences, can_use_kernel

SCORES_PER_BLOCK = 2**24
"""How many scores exist at one time while decoding many tokens with a cache."""


def register_attention() -> None:
    """Make our attention known to transformers under the names in `ATTENTIONS`."""
    for name in ATTENTIONS:
        AttentionInterface.register(name, attend)
        AttentionMaskInterface.register(name, no_mask)


def no_mask(*_: object, **__: object) -> None:
    """Stand in for the decoder's mask: the layout says it all."""
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
    **wishes: object,
) -> tuple[Tensor, None]:
    """The attention function that a decoder layer calls.

    Args:
        query: float[B, H, S, d], after rotary embedding.
        key, value: float[B, G, K, d]; K = S unless there is a cache.
        layout: who sees what; required.
        wishes: whatever else the layer passes on.

    Returns:
        float[B, S, H, d], and None for the weights, which never exist.

    Raises:
        ValueError: the layer wants something that MMCA does not define.
    """
    if layout is None:
        raise ValueError("this attention needs a layout: call VisualChat, not its decoder")
    if dropout > 0.0:
        raise ValueError(f"attention dropout must be 0, the decoder's configuration has {dropout}")
    _refuse_undefined(wishes, layout, asked_by=type(module).__name__)
    if isinstance(layout, FlatLayout):
        return attend_flat(query, key, value, layout, scale=scaling), None
    if isinstance(layout, PrefillLayout):
        return _attend_prefill(query, key, value, layout.flat, scale=scaling), None
    if isinstance(layout, CollectingLayout):
        layout.keys_and_values.append((key, value))
        return _repeat_heads(value, num_heads=query.shape[1]).transpose(1, 2), None
    return _attend_cached(query, key, value, layout, scale=scaling), None


def _refuse_undefined(wishes: dict[str, object], layout: Layout, *, asked_by: str) -> None:
    """Stop where a layer wants what MMCA has no meaning for.

    Raises:
        ValueError: soft-capped scores, sinks, a position bias, or a sliding window that is shorter
            than a dialogue.
    """
    for name in ("softcap", "s_aux", "position_bias"):
        if wishes.get(name) is not None:
            raise ValueError(f"{asked_by} wants {name}, which MMCA does not define")
    window = wishes.get("sliding_window")
    if isinstance(window, int) and layout.longest > window:
        raise ValueError(
            f"a dialogue of {layout.longest} positions is longer than the decoder's sliding window "
            f"of {window}: text would lose sight of its images"
        )


def attend_flat(
    query: Tensor, key: Tensor, value: Tensor, layout: FlatLayout, *, scale: float
) -> Tensor:
    """Attend in a flat row: float[1, H, N, d] and float[1, G, N, d] to float[1, N, H, d].

    Queries may lack rows at their front: images that are cached need none.

    Per dialogue one causal attention over its text, and per run of text one attention without a
    mask onto the image keys before it. All operands are slices; only the output is put together.

    Short rows need no other form. With 6 to 10 short dialogues in 512 to 1,024 positions, forward
    and backward passes of a whole tiny model take 0.3 to 0.5 of the time that boolean masks take,
    because slices skip what masks only hide; the calls themselves are under a tenth of the time.
    """
    num_text = sum(stretch.num_text for stretch in layout.dialogues)
    front = query.shape[2] - num_text  # rows that only pass their value on
    passed_on = _repeat_heads(value[:, :, :front], num_heads=query.shape[1])
    text, image = _text_and_image(key, value, layout, num_text=num_text)
    asking = query[:, :, front:]
    outputs = [passed_on.transpose(1, 2)]
    if layout.sequences is not None and can_use_kernel(query):
        outputs.append(_attend_at_once(asking, text, image, layout.sequences, scale=scale))
    else:
        outputs += _attend_one_by_one(asking, text, image, layout.dialogues, scale=scale)
    return torch.cat(outputs, dim=1)


def _text_and_image(
    key: Tensor, value: Tensor, layout: FlatLayout, *, num_text: int
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return keys and values of all text positions, and those of all image positions."""
    before = key.shape[2] - num_text
    text = key[:, :, before:], value[:, :, before:]
    if layout.image_keys is not None and layout.image_values is not None:
        return text, (layout.image_keys, layout.image_values)
    return text, (key[:, :, :before], value[:, :, :before])


def _attend_at_once(
    query: Tensor,
    text: tuple[Tensor, Tensor],
    image: tuple[Tensor, Tensor],
    sequences: Sequences,
    *,
    scale: float,
) -> Tensor:
    """Return the output of all text as float[1, T, H, d], by a kernel for many sequences."""
    rows = [one[0].transpose(0, 1) for one in (query, *text, *image)]
    return attend_sequences(
        rows[0], (rows[1], rows[2]), (rows[3], rows[4]), sequences, scale=scale
    )[None]


def _attend_one_by_one(
    query: Tensor,
    text: tuple[Tensor, Tensor],
    image: tuple[Tensor, Tensor],
    dialogues: Sequence[FlatDialogue],
    *,
    scale: float,
) -> Iterator[Tensor]:
    """Yield the output of all text, run by run, as float[1, run, H, d]."""
    texts = [stretch.num_text for stretch in dialogues]
    images = [stretch.num_image for stretch in dialogues]
    for stretch, asking, of_text, of_image in zip(
        dialogues,
        torch.split(query, texts, dim=2),
        zip(*(torch.split(x, texts, dim=2) for x in text), strict=True),
        zip(*(torch.split(x, images, dim=2) for x in image), strict=True),
        strict=True,
    ):
        for output in _attend_dialogue(stretch, asking, of_text, of_image, scale=scale):
            yield output.transpose(1, 2)


def _attend_dialogue(
    dialogue: FlatDialogue,
    query: Tensor,
    text: tuple[Tensor, Tensor],
    image: tuple[Tensor, Tensor],
    *,
    scale: float,
) -> Iterator[Tensor]:
    """Yield the output of one dialogue's text, run by run, as float[1, H, run, d]."""
    if dialogue.num_text == 0:
        return
    grouped = query.shape[1] != text[0].shape[1]
    lengths = [length for length, _ in dialogue.text_spans]
    onto_text = functional.scaled_dot_product_attention(
        query, *text, is_causal=True, scale=scale, enable_gqa=grouped
    )
    runs = zip(
        dialogue.text_spans,
        torch.split(query, lengths, 2),
        torch.split(onto_text, lengths, 2),
        strict=True,
    )
    for (_, seen), queries, output in runs:
        if seen == 0:
            yield output
            continue
        keys, values = (tensor[:, :, :seen] for tensor in image)
        yield output + functional.scaled_dot_product_attention(
            queries, keys, values, scale=scale, enable_gqa=grouped
        )


def _repeat_heads(value: Tensor, *, num_heads: int) -> Tensor:
    """Return float[B, G, S, d] as float[B, H, S, d]: for every query head the one it reads."""
    if value.shape[1] == num_heads:
        return value
    return value.repeat_interleave(num_heads // value.shape[1], dim=1)


def _attend_prefill(
    query: Tensor, key: Tensor, value: Tensor, flat: FlatLayout, *, scale: float
) -> Tensor:
    """Attend in B rows by way of one flat row, as float[B, S, H, d]; padding gives 0."""
    num_rows, num_heads, length, width = query.shape
    q, k, v = (_flatten(tensor, flat.order) for tensor in (query, key, value))
    attended = attend_flat(q, k, v, flat, scale=scale)[0]
    output = attended.new_zeros(num_rows * length, num_heads, width)
    return output.index_copy(0, flat.order, attended).view(num_rows, length, num_heads, width)


def _flatten(tensor: Tensor, order: Tensor) -> Tensor:
    """Return float[B, heads, S, d] as float[1, heads, N, d], positions in the given order."""
    by_position = tensor.transpose(1, 2).flatten(0, 1)
    return by_position.index_select(0, order).transpose(0, 1)[None]


def _attend_cached(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: CachedLayout | PublishedLayout,
    *,
    scale: float,
) -> Tensor:
    """Attend from the newest positions to the whole cache, as float[B, S, H, d].

    A block of queries at a time bounds the memory of their scores, where these are formed.
    """
    num_rows, num_heads, length, _ = query.shape
    output = _repeat_heads(value[:, :, -length:], num_heads=num_heads).transpose(1, 2)
    rows = max(1, SCORES_PER_BLOCK // (num_rows * num_heads * key.shape[2]))
    blocks = [slice(start, start + rows) for start in range(0, len(layout.queries), rows)]
    if not blocks:
        return output
    if isinstance(layout, CachedLayout):
        attended = [_attend_key_sets(query, key, value, layout, b, scale=scale) for b in blocks]
    else:
        attended = [
            _attend_two_softmaxes(query, key, value, layout, b, scale=scale) for b in blocks
        ]
    new = torch.cat(attended, dim=1)
    kept = torch.where(layout.attends[..., None, None], new, output[:, layout.queries])
    return output.index_copy(1, layout.queries, kept)


def _attend_key_sets(
    query: Tensor, key: Tensor, value: Tensor, layout: CachedLayout, block: slice, *, scale: float
) -> Tensor:
    """Return float[B, Q, H, d] of a block of the layout's queries: the sum over its key sets."""
    query = query.index_select(2, layout.queries[block])
    output = torch.zeros_like(query)
    for one in layout.key_sets:
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


def _attend_two_softmaxes(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: PublishedLayout,
    block: slice,
    *,
    scale: float,
) -> Tensor:
    """Return float[B, Q, H, d] of a block of the layout's queries: one softmax per kind of key."""
    query = query.index_select(2, layout.queries[block])
    num_rows, num_heads, num_queries, width = query.shape
    groups = (num_rows, key.shape[1], num_heads // key.shape[1], num_queries)
    grouped = query.reshape(*groups[:2], -1, width)
    scores = (grouped @ key.transpose(2, 3)).view(*groups, -1).float() * scale
    weights = layout.own_values[:, None, None, block].float()
    for mask, levelled in zip((layout.text_keys, layout.image_keys), layout.levelled, strict=True):
        weights = weights + _masked_softmax(
            scores, mask[:, None, None, block], levelled[:, None, None, block]
        )
    attended = weights.to(value.dtype).flatten(2, 3) @ value
    return attended.view(num_rows, num_heads, num_queries, width).transpose(1, 2)


def _masked_softmax(scores: Tensor, mask: Tensor, levelled: Tensor) -> Tensor:
    """Softmax of the last dimension over the keys in `mask`; 0 where a query has none.

    Where `levelled` holds, the scores count as equal, but gradients reach them all the same: the
    published code adds masks so low that they round the scores away.
    """
    scores = torch.where(levelled, scores - scores.detach(), scores)
    weights = scores.masked_fill(~mask, -torch.inf).softmax(dim=-1)
    return weights.masked_fill(~mask, 0.0)
