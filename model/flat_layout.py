"""Where dialogues, texts and images stand in a batch of rows, as the attention needs it.

Without a KV cache the decoder gets all positions of a batch as one flat row without padding, image
positions first, then text, both dialogue by dialogue. Position ids travel along, so rotary
embeddings are unaffected, and every set of keys the attention needs is one contiguous slice: no S x
S mask exists.

With a KV cache the rows stay as they are, because the cache is per row.

B rows, S positions, K keys (cached and new), N positions that are not padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import DynamicCache

from vchat.model.varlen import Sequences, sequences_of

PAD, TEXT, IMAGE = 0, 1, 2

MANY_QUERIES = 8
"""From so many on, taking text keys and image keys apart costs less than masking each half."""


def kinds_of(image_slots: Tensor, segments: Tensor, *, mixed: bool) -> Tensor:
    """Return int64[B, S]: PAD outside of any segment, IMAGE at slots, TEXT elsewhere.

    With `mixed` False (plain causal attention) image positions count as TEXT.
    """
    kinds = torch.where(image_slots & mixed, IMAGE, TEXT)
    return kinds.masked_fill(segments == 0, PAD)


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
    """int64[n]: image rows the last layer keeps beside the text rows; None is all rows."""

    image_keys: Tensor | None = None
    """float[1, G, num_image, d], in a last layer that lacks image rows; else they are its own."""

    image_values: Tensor | None = None
    """float[1, G, num_image, d], likewise."""

    @property
    def longest(self) -> int:
        """Positions of the longest dialogue."""
        return max((s.num_text + s.num_image for s in self.dialogues), default=0)

    def index_of(self, flat_index: Tensor, *, batch_size: int) -> Tensor:
        """Return where positions of the batch (as one vector) stand in the flat row; else -1."""
        inverse = torch.full((batch_size,), -1, device=self.order.device)
        inverse[self.order] = torch.arange(len(self.order), device=self.order.device)
        return inverse[flat_index]


def flat_layout(kinds: Tensor, segments: Tensor) -> FlatLayout:
    """Return the flat layout of a batch.

    Args:
        kinds: int64[B, S], PAD, TEXT or IMAGE.
        segments: int64[B, S], which dialogue of its row a position belongs to.

    A batch of padding alone keeps its first position as text, because a decoder needs a row.
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
    stretches = _count_dialogues(dialogue, is_text)
    at_once = kinds.is_cuda and len(stretches) > 1
    return FlatLayout(
        order=order,
        num_image=int((~is_text).sum()),
        dialogues=stretches,
        sequences=sequences_of_dialogues(stretches, device=kinds.device) if at_once else None,
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
    runs: list[list[tuple[int, int]]] = [[] for _ in range(num)]
    for piece, length in zip(pieces.tolist(), lengths.tolist(), strict=True):
        runs[piece // base].append((length, piece % base))
    return tuple(
        FlatDialogue(num_text=t, num_image=i, text_spans=tuple(r))
        for t, i, r in zip(num_text.tolist(), num_image.tolist(), runs, strict=True)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillLayout:
    """Rows that go into an empty cache: they stay rows, but attend as one flat row."""

    flat: FlatLayout
    """The flat layout of the same positions."""

    @property
    def longest(self) -> int:
        """Positions of the longest dialogue."""
        return self.flat.longest


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


@dataclass(frozen=True, slots=True)
class CollectingLayout:
    """Asks the attention for the keys and values of its rows instead of an output."""

    keys_and_values: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Filled by the attention: float[B, G, S, d] each."""

    longest: int = 0
    """Nothing attends."""


Layout = FlatLayout | PrefillLayout | CachedLayout | PublishedLayout | CollectingLayout


def cached_layout(
    kinds: Tensor, segments: Tensor, *, num_new: int, positions: Tensor | None = None
) -> CachedLayout:
    """Return the layout of the newest `num_new` positions.

    Args:
        kinds: int64[B, K] of all keys, the new ones last.
        segments: int64[B, K], likewise.
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


def visible_keys(
    kinds: Tensor, segments: Tensor, *, queries: Tensor, positions: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return which keys each query sees, as `(text, image)`, both bool[B, Q, K].

    For one dialogue with `kinds` = text image image text, and all four as queries:

        text    [[1 0 0 0]    image   [[0 0 0 0]
                 [0 0 0 0]             [0 0 0 0]
                 [0 0 0 0]             [0 0 0 0]
                 [1 0 0 1]]            [0 1 1 0]]

    A text position sees the text up to itself and the images before it, of its own dialogue. An
    image position sees nothing: its output is its own value. Padding sees nothing and is not seen.

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


def published_layout(kinds: Tensor, segments: Tensor, *, num_new: int) -> PublishedLayout:
    """Return the layout of the published code, which differs from the paper and looks ahead.

    Image positions attend to the text before them, beside their own value. Where a softmax has no
    key at all, both of its masks cancel out, and the query gets the mean over the earlier keys of
    the other kind and the later keys of this kind. Arguments as for `cached_layout`.
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


class DialogueCache(DynamicCache):  # type: ignore[misc]
    """A KV cache that also knows, for each key, its kind, its dialogue and its place in its row.

    The decoder's own cache holds keys and values only; which softmax a key belongs to cannot be
    told from them. Keys of images that were known before stand in front of the text around them.
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
                one after the other, behind all that are known.
        """
        if positions is None:
            known = 0 if self.kinds is None else self.kinds.shape[1]
            positions = torch.arange(kinds.shape[1], device=kinds.device).expand_as(kinds) + known
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
            for name in ("kinds", "segments", "places"):
                known = getattr(self, name)
                setattr(self, name, None if known is None else known[:, :tokens_to_remove])
