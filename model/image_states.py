"""Keys and values of an image, computed once and used in every dialogue that shows it.

Under MMCA an image position attends to nothing, so what the decoder computes for it depends on the
image alone. Only the rotary embedding of its keys says where it stands: keys are stored as at the
positions from 0 on, and rotated by the difference when an image enters a cache. Then only text goes
through the decoder.

Whether a decoder's keys can be rotated is found out by trying, on two positions.

G key heads, P positions of an image, d head width, S positions, D decoder width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vchat.model.attention import IMAGE, TEXT
from vchat.model.cached_layout import DialogueCache
from vchat.model.decoding import FlatDecoding, Rows
from vchat.model.flat_layout import make_flat_layout

PROBE_POSITION = 7
"""Position at which the probe is computed a second time."""

TOLERANCE = 0.02
"""Largest difference of a rotated key, relative to the largest key; bfloat16 rounds to 0.004."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageStates:
    """What the decoder computes for one image."""

    keys: tuple[Tensor, ...]
    """float[1, G, P, d] of every layer, as at the positions 0 to P - 1."""

    values: tuple[Tensor, ...]
    """float[1, G, P, d] of every layer."""

    @property
    def num_positions(self) -> int:
        """How many positions the image takes."""
        return int(self.keys[0].shape[2])

    @property
    def size_bytes(self) -> int:
        """Bytes of memory that it takes."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRotation:
    """How the keys of a decoder are rotated from one position to another."""

    rotary: Any
    """The decoder's rotary embedding: gives cosines and sines of positions."""

    depends_on_position: tuple[bool, ...]
    """Whether a layer's keys depend on their position at all."""

    def rotate(self, states: ImageStates, *, by: int) -> tuple[Tensor, ...]:
        """Return the keys of every layer as they are `by` positions later."""
        like = states.keys[0]
        position = torch.tensor([[by]], device=like.device)
        cos, sin = self.rotary(like.float(), position)
        scale = float(getattr(self.rotary, "attention_scaling", 1.0))
        angles = cos[:, None] / scale, sin[:, None] / scale
        return tuple(
            _rotate(keys, *angles) if depends else keys
            for keys, depends in zip(states.keys, self.depends_on_position, strict=True)
        )


def find_key_rotation(decoder: PreTrainedModel) -> KeyRotation | None:
    """Return how the decoder's keys are rotated, or None if they cannot be."""
    rotary = getattr(decoder.get_decoder(), "rotary_emb", None)
    if rotary is None or getattr(rotary, "rope_type", "default") in ("dynamic", "longrope"):
        return None  # their frequencies change with the length of the dialogue
    width = decoder.get_input_embeddings().weight.shape[1]
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(1, 2, width, generator=generator).to(decoder.device, decoder.dtype)
    near, far = (encode_image(decoder, probe, start=start) for start in (0, PROBE_POSITION))
    depends = tuple(
        not _are_close(here, there) for here, there in zip(near.keys, far.keys, strict=True)
    )
    rotation = KeyRotation(rotary=rotary, depends_on_position=depends)
    try:
        rotated = rotation.rotate(near, by=PROBE_POSITION)
    except (TypeError, RuntimeError):  # several rotary embeddings in one, or another width
        return None
    works = all(_are_close(here, there) for here, there in zip(rotated, far.keys, strict=True))
    return rotation if works else None


def encode_image(decoder: PreTrainedModel, embeddings: Tensor, *, start: int = 0) -> ImageStates:
    """Run the decoder on the positions of one image, float[1, P, D], alone."""
    num = embeddings.shape[1]
    ones = torch.ones(1, num, dtype=torch.int64, device=embeddings.device)
    rows = Rows(
        embeddings=embeddings,
        kinds=ones * IMAGE,
        segments=ones,
        position_ids=ones.cumsum(dim=1) - 1 + start,
    )
    cache = DialogueCache()
    with torch.no_grad():
        FlatDecoding(decoder, skips_images=False).decode_newest(rows, cache)
    return ImageStates(
        keys=tuple(layer.keys for layer in cache.layers),
        values=tuple(layer.values for layer in cache.layers),
    )


def extend_with_images(
    decoder: PreTrainedModel,
    rotation: KeyRotation,
    embeddings: Tensor,
    slots: Tensor,
    cache: DialogueCache,
    images: Sequence[ImageStates],
) -> Tensor:
    """Extend a cache by one row whose images are computed; return the hidden states of its text.

    Args:
        embeddings: float[1, S, D], of a row without padding; those at its slots are not read.
        slots: bool[1, S], where the images stand; the last is text.
        images: in the order of their slots.

    Raises:
        ValueError: more than one row, a row that ends in an image, or images whose positions are
            not as many as the slots.
    """
    if len(slots) != 1 or bool(slots[0, -1]):
        raise ValueError("known images extend one row that ends in text")
    is_image = slots[0]
    num_slots, num_known = int(is_image.sum()), sum(one.num_positions for one in images)
    if num_slots != num_known:
        raise ValueError(
            f"the token ids have {num_slots} image positions, but the {len(images)} images that"
            f" are given take {num_known}"
        )
    ones = torch.ones_like(slots, dtype=torch.int64)
    is_first = cache.get_seq_length() == 0
    layout = make_flat_layout(torch.where(slots, IMAGE, TEXT), ones) if is_first else None
    new_positions = torch.arange(len(is_image), device=is_image.device) + cache.get_seq_length()
    _add_images(cache, rotation, images, positions=new_positions[is_image])
    text = new_positions[None, ~is_image]
    rows = Rows(
        embeddings=embeddings[:, ~is_image],
        kinds=torch.full_like(text, TEXT),
        segments=torch.ones_like(text),
        position_ids=text,
    )
    decoding = FlatDecoding(decoder, skips_images=False)
    return decoding.decode_newest(rows, cache, positions=text, text_layout=layout)


def _add_images(
    cache: DialogueCache, rotation: KeyRotation, images: Sequence[ImageStates], *, positions: Tensor
) -> None:
    """Put images into the cache of one row, at positions int64[n]."""
    if not images:
        return
    starts = torch.tensor([0, *(one.num_positions for one in images[:-1])]).cumsum(0)
    keys = [
        rotation.rotate(one, by=int(start))
        for one, start in zip(images, positions[starts.to(positions.device)].tolist(), strict=True)
    ]
    for layer in range(len(images[0].keys)):
        cache.update(
            torch.cat([of_image[layer] for of_image in keys], dim=2),
            torch.cat([one.values[layer] for one in images], dim=2),
            layer,
        )
    ones = torch.ones_like(positions)[None]
    cache.remember(ones * IMAGE, ones, positions=positions[None])


def _rotate(keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the leading part of float[1, G, P, d] by angles whose cos and sin are [1, 1, 1, r]."""
    wide, rest = keys[..., : cos.shape[-1]].float(), keys[..., cos.shape[-1] :]
    first, second = wide.chunk(2, dim=-1)
    rotated = wide * cos + torch.cat([-second, first], dim=-1) * sin
    return torch.cat([rotated.to(keys.dtype), rest], dim=-1)


def _are_close(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors of keys are the same up to rounding."""
    difference = (one.float() - other.float()).abs().max()
    return bool(difference <= TOLERANCE * other.float().abs().max())
