"""Many short dialogues in a flat row as two calls of flash attention, on CUDA.

Attention over slices costs one call per dialogue and per text span, which are many where dialogues
are short. A kernel for sequences of various lengths takes all of them at once if the keys of each
are contiguous, so the image keys that a text span sees are gathered. torch has such a kernel on
CUDA in 16 bits. The index arithmetic is tested on a CPU with a stand-in for the kernel.

T text positions of a flat row, R text spans that see images, M gathered image keys, D dialogues,
H query heads, G key heads, d head width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

Kernel = Callable[..., Any]
"""As `torch.nn.attention.varlen.varlen_attn`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Where sequences end in a row that joins them."""

    ends: Tensor
    """int32[n + 1]: 0, then the end of each."""

    longest: int
    """Positions of the longest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequences:
    """The sequences of a flat row: what attends to what, in one piece each."""

    texts: Bounds
    """Of the D dialogues' text."""

    span_rows: Tensor
    """int64[n]: the text positions that see images, span by span."""

    spans: Bounds
    """Of the R spans among these."""

    image_keys: Tensor
    """int64[M]: for each span the image positions it sees, one span after the other."""

    images: Bounds
    """Of the R sets of image keys."""


def sequences_of(
    dialogues: Sequence[tuple[int, int, Sequence[tuple[int, int]]]], *, device: torch.device
) -> Sequences:
    """Return the sequences of a flat row.

    Args:
        dialogues: for each its text positions, its image positions, and its text spans as (text
            positions, image positions before).
    """
    rows: list[Tensor] = []
    keys: list[Tensor] = []
    text = image = 0
    for num_text, num_image, spans in dialogues:
        start = text
        for length, seen in spans:
            if seen:
                rows.append(torch.arange(start, start + length))
                keys.append(torch.arange(image, image + seen))
            start += length
        text, image = text + num_text, image + num_image
    none = torch.zeros(0, dtype=torch.int64)
    return Sequences(
        texts=_bounds([num for num, _, _ in dialogues], device),
        span_rows=torch.cat([none, *rows]).to(device),
        spans=_bounds([len(one) for one in rows], device),
        image_keys=torch.cat([none, *keys]).to(device),
        images=_bounds([len(one) for one in keys], device),
    )


def _bounds(lengths: Sequence[int], device: torch.device) -> Bounds:
    ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
    return Bounds(ends=ends, longest=max(lengths, default=0))


def can_use_kernel(query: Tensor) -> bool:
    """Tell whether torch has the kernel for these queries, float[1, H, N, d]."""
    if not query.is_cuda or query.dtype not in (torch.float16, torch.bfloat16):
        return False
    width = query.shape[-1]
    modern = torch.cuda.get_device_capability(query.device) >= (8, 0)
    return modern and width % 8 == 0 and width <= 256


def attend_sequences(
    query: Tensor,
    text: tuple[Tensor, Tensor],
    image: tuple[Tensor, Tensor],
    sequences: Sequences,
    *,
    scale: float,
    kernel: Kernel | None = None,
) -> Tensor:
    """Return the outputs of all text positions, float[T, H, d].

    Args:
        query: float[T, H, d].
        text, image: keys and values of text positions, float[T, G, d], and of image positions.
        kernel: torch's, unless given.
    """
    kernel = _torch_kernel() if kernel is None else kernel
    grouped = query.shape[1] != text[0].shape[1]
    texts, spans, images = sequences.texts, sequences.spans, sequences.images
    output: Tensor = kernel(
        query,
        *text,
        texts.ends,
        texts.ends,
        texts.longest,
        texts.longest,
        scale=scale,
        window_size=(-1, 0),  # causal
        enable_gqa=grouped,
    )
    if len(sequences.span_rows) == 0:
        return output
    onto_images = kernel(
        query.index_select(0, sequences.span_rows),
        *(one.index_select(0, sequences.image_keys) for one in image),
        spans.ends,
        images.ends,
        spans.longest,
        images.longest,
        scale=scale,
        enable_gqa=grouped,
    )
    return output.index_add(0, sequences.span_rows, onto_images)


def _torch_kernel() -> Kernel:
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn
