"""A batch of rows as one flat row without padding, and attention in it.

Without a KV cache the decoder gets all positions of a batch as one flat row, image positions first,
then text, both dialogue by dialogue. Position ids travel along, so rotary embeddings are
unaffected, and every set of keys the attention needs is one contiguous slice: no S x S mask exists.

B rows, S positions, N positions that are not padding, H query heads, G key heads, d head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vchat.model.attention import IMAGE, PAD, repeat_heads
from vchat.model.varlen import Sequences, attend_sequences, can_use_kernel, sequences_of


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatDialogue:
    """One dialogue's part of a flat row."""

    num_text: int
    """Text positions."""

    num_image: int
    """Image positions."""

    text_spans: tuple[tuple[int, int], ...]
    """Its text in pieces without an image in between: (text positions, image positions before)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatLayout:
    """A batch as one flat row, image positions first."""

    order: Tensor
    """int64[N]: for each position of the flat row, its index in the batch seen as one vector."""

    num_image: int
    """How many positions at the front of the flat row are image positions."""

    dialogues: tuple[FlatDialogue, ...]
    """The dialogues, in the order in which both their images and their texts stand."""

    sequences: Sequences | None = None
    """The same for a kernel that takes all dialogues at once; on CUDA, if there are several."""

    kept_images: Tensor | None = None
    """int64[n]: image positions that the last layer keeps beside all text; None is all."""

    image_keys: Tensor | None = None
    """float[1, G, num_image, d], if the last layer skips image positions; else its own."""

    image_values: Tensor | None = None
    """float[1, G, num_image, d], as `image_keys`."""

    @property
    def longest(self) -> int:
        """Positions of the longest dialogue."""
        return max((s.num_text + s.num_image for s in self.dialogues), default=0)

    def index_of(self, flat_index: Tensor, *, batch_size: int) -> Tensor:
        """Return where positions of the batch (as one vector) stand in the flat row; else -1."""
        inverse = torch.full((batch_size,), -1, device=self.order.device)
        inverse[self.order] = torch.arange(len(self.order), device=self.order.device)
        return inverse[flat_index]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, scale: float) -> Tensor:
        """Attend in a flat row: float[1, H, N, d] and float[1, G, N, d] to float[1, N, H, d].

        Queries may lack positions at the front: images that are cached need none.

        There is one causal attention over the text of each dialogue, and for each of its text
        spans one attention without a mask onto the image keys before it. All operands are slices;
        only the output is put together.

        Short rows need no other form: slices skip what boolean masks only hide. (6 to 10 short
        dialogues in 512 to 1,024 positions, a tiny model: 0.3 to 0.5 of the time with masks.)
        """
        num_text = sum(dialogue.num_text for dialogue in self.dialogues)
        front = query.shape[2] - num_text  # rows that only pass their value on
        passed_on = repeat_heads(value[:, :, :front], num_heads=query.shape[1])
        text, image = self._split_by_kind(key, value, num_text=num_text)
        asking = query[:, :, front:]
        outputs = [passed_on.transpose(1, 2)]
        if self.sequences is not None and can_use_kernel(query):
            outputs.append(_attend_at_once(asking, text, image, self.sequences, scale=scale))
        else:
            outputs += _attend_one_by_one(asking, text, image, self.dialogues, scale=scale)
        return torch.cat(outputs, dim=1)

    def _split_by_kind(
        self, key: Tensor, value: Tensor, *, num_text: int
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return keys and values of all text positions, and those of all image positions."""
        before = key.shape[2] - num_text
        text = key[:, :, before:], value[:, :, before:]
        if self.image_keys is not None and self.image_values is not None:
            return text, (self.image_keys, self.image_values)
        return text, (key[:, :, :before], value[:, :, :before])


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillLayout:
    """Rows that go into an empty cache: they stay rows, but attend as one flat row."""

    flat: FlatLayout
    """The flat layout of the same positions."""

    @property
    def longest(self) -> int:
        """Positions of the longest dialogue."""
        return self.flat.longest

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, scale: float) -> Tensor:
        """Attend in B rows by way of one flat row, as float[B, S, H, d]; padding gives 0."""
        num_rows, num_heads, length, width = query.shape
        q, k, v = (_flatten(tensor, self.flat.order) for tensor in (query, key, value))
        attended = self.flat.attend(q, k, v, scale=scale)[0]
        output = attended.new_zeros(num_rows * length, num_heads, width)
        return output.index_copy(0, self.flat.order, attended).view(
            num_rows, length, num_heads, width
        )


def make_flat_layout(kinds: Tensor, segments: Tensor) -> FlatLayout:
    """Return the flat layout of a batch.

    Args:
        kinds: int64[B, S], PAD, TEXT or IMAGE.
        segments: int64[B, S], which dialogue of its row a position belongs to.

    A batch of padding alone keeps its first position as text, because a decoder needs one position.
    """
    rows = torch.arange(len(kinds), device=kinds.device)[:, None]
    keep = (kinds != PAD).flatten().nonzero()[:, 0]
    if len(keep) == 0:
        keep = keep.new_zeros(1)
    key = (rows * (segments.max() + 1) + segments).flatten()[keep]
    _, dialogue = torch.unique(key, return_inverse=True)
    by_dialogue = dialogue.argsort(stable=True)
    keep, dialogue = keep[by_dialogue], dialogue[by_dialogue]
    is_text = kinds.flatten()[keep] != IMAGE
    order = torch.cat([keep[~is_text], keep[is_text]])
    dialogues = _count_dialogues(dialogue, is_text)
    at_once = kinds.is_cuda and len(dialogues) > 1
    return FlatLayout(
        order=order,
        num_image=int((~is_text).sum()),
        dialogues=dialogues,
        sequences=sequences_of_dialogues(dialogues, device=kinds.device) if at_once else None,
    )


def sequences_of_dialogues(dialogues: Sequence[FlatDialogue], *, device: torch.device) -> Sequences:
    """Return the sequences of a flat row of these dialogues."""
    return sequences_of([(s.num_text, s.num_image, s.text_spans) for s in dialogues], device=device)


def _count_dialogues(dialogue: Tensor, is_text: Tensor) -> tuple[FlatDialogue, ...]:
    """Count each dialogue's positions and cut its text where images stand in between.

    Args:
        dialogue: int64[N], ascending from 0 without gaps.
        is_text: bool[N].
    """
    if len(dialogue) == 0:
        return ()
    num = int(dialogue[-1]) + 1
    num_text = torch.bincount(dialogue[is_text], minlength=num)
    num_image = torch.bincount(dialogue[~is_text], minlength=num)
    images_so_far = (~is_text).cumsum(0) - (num_image.cumsum(0) - num_image)[dialogue]
    base = len(dialogue) + 1
    pieces, lengths = torch.unique_consecutive(
        (dialogue * base + images_so_far)[is_text], return_counts=True
    )
    spans: list[list[tuple[int, int]]] = [[] for _ in range(num)]
    for piece, length in zip(pieces.tolist(), lengths.tolist(), strict=True):
        spans[piece // base].append((length, piece % base))
    return tuple(
        FlatDialogue(num_text=t, num_image=i, text_spans=tuple(r))
        for t, i, r in zip(num_text.tolist(), num_image.tolist(), spans, strict=True)
    )


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
    """Yield the output of all text, span by span, as float[1, span, H, d]."""
    texts = [dialogue.num_text for dialogue in dialogues]
    images = [dialogue.num_image for dialogue in dialogues]
    for dialogue, asking, of_text, of_image in zip(
        dialogues,
        torch.split(query, texts, dim=2),
        zip(*(torch.split(x, texts, dim=2) for x in text), strict=True),
        zip(*(torch.split(x, images, dim=2) for x in image), strict=True),
        strict=True,
    ):
        for output in _attend_dialogue(dialogue, asking, of_text, of_image, scale=scale):
            yield output.transpose(1, 2)


def _attend_dialogue(
    dialogue: FlatDialogue,
    query: Tensor,
    text: tuple[Tensor, Tensor],
    image: tuple[Tensor, Tensor],
    *,
    scale: float,
) -> Iterator[Tensor]:
    """Yield the output of one dialogue's text, span by span, as float[1, H, span, d]."""
    if dialogue.num_text == 0:
        return
    grouped = query.shape[1] != text[0].shape[1]
    lengths = [length for length, _ in dialogue.text_spans]
    onto_text = functional.scaled_dot_product_attention(
        query, *text, is_causal=True, scale=scale, enable_gqa=grouped
    )
    spans = zip(
        dialogue.text_spans,
        torch.split(query, lengths, 2),
        torch.split(onto_text, lengths, 2),
        strict=True,
    )
    for (_, seen), queries, output in spans:
        if seen == 0:
            yield output
            continue
        keys, values = (tensor[:, :, :seen] for tensor in image)
        yield output + functional.scaled_dot_product_attention(
            queries, keys, values, scale=scale, enable_gqa=grouped
        )


def _flatten(tensor: Tensor, order: Tensor) -> Tensor:
    """Return float[B, heads, S, d] as float[1, heads, N, d], positions in the given order."""
    by_position = tensor.transpose(1, 2).flatten(0, 1)
    return by_position.index_select(0, order).transpose(0, 1)[None]
