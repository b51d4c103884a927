"""The narrow twin of a model: small enough to run on a CPU, and measured in place of the model.

In the twin every width (hidden, inner, head, vocabulary) is divided by one factor, and the layers
are few. It runs forward and backward on the CPU without its matrix products, while every tensor it
makes is counted. So gradient checkpointing, frozen parts, LoRA and whatever the attention saves are
part of the measurement.

A tower of open_clip or Qwen-VL is not narrowed: a CLIP tower without layers takes its place in the
twin, and the tower itself is measured at its true size (`vchat.train.costs.tower_cost`).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from transformers import AutoConfig, PreTrainedConfig

from vchat.model.config import VisualChatConfig
from vchat.model.decoding import IGNORED
from vchat.model.towers.hugging_face import HUGGING_FACE_TOWERS
from vchat.model.visual_chat import VisualChat
from vchat.train.config.run import Part
from vchat.train.costs.flops import is_trained
from vchat.train.costs.live_bytes import LiveBytes, MemoryUse, drop_gradients
from vchat.train.engine.parts import freeze_other_parts

WIDTHS = ("hidden_size", "intermediate_size", "head_dim")
MAX_FACTOR = 32
PATCH = 14
MIN_HEAD_WIDTH = 4
SUPERVISED = 8
"""Most labels in a twin's row: few, because the memory of the loss is computed, not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """The size of what one forward pass is given."""

    rows: int
    positions: int
    """Of one row."""

    images: int
    """In all rows together."""

    supervised: int
    """Tokens, in all rows together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinSettings:
    """What of a run's settings decides the memory of activations."""

    dtype: torch.dtype
    """Of weights and activations."""

    parts: tuple[Part, ...]
    """Names of the trained parts; the rest is frozen."""

    gradient_checkpointing: bool


def measure_activations(model: VisualChat, batch: MicroBatch) -> MemoryUse:
    """Run a model forward and backward; count the bytes beside its weights and gradients."""
    drop_gradients(model)
    live = LiveBytes()
    live.ignore([*model.parameters(), *model.buffers()])
    with live:
        loss = model(**full_rows(model, batch)).loss
        kept = live.now
        loss.backward()
    return MemoryUse(kept=kept, peak=live.peak)


def build_twin(model: VisualChat, settings: TwinSettings, *, factor: int, depth: int) -> VisualChat:
    """Build the twin of a model, with fresh weights.

    Args:
        model: Of true size, on the meta device.
        settings: The twin's precision, trained parts and checkpointing.
        factor: What all widths are divided by.
        depth: The number of the decoder's layers.
    """
    twin = VisualChat(_twin_config(model, factor=factor, depth=depth))
    freeze_other_parts(twin, settings.parts)
    if settings.gradient_checkpointing:
        twin.activation_checkpointing_enable({"use_reentrant": False})
    twin.to(settings.dtype)
    twin.train()
    return twin


def _twin_config(model: VisualChat, *, factor: int, depth: int) -> VisualChatConfig:
    """Return the configuration of a twin.

    A frozen tower saves nothing of a layer, so two of its layers stand for all. 4-bit layers are
    plain ones: what they take beside is counted with the weights.
    """
    config: VisualChatConfig = copy.deepcopy(model.config)
    decoder, tower = config.decoder_config, twin_tower_config(model)
    assert decoder is not None  # a built model has both
    for part in (decoder, tower):
        for name in WIDTHS:
            if getattr(part, name, None):
                setattr(part, name, getattr(part, name) // factor)
    _shorten_decoder(decoder, factor=factor, depth=depth)
    if not is_trained(model.tower):
        tower.num_hidden_layers = min(2, tower.num_hidden_layers)
    config.four_bit_decoder = False
    own, config.tower_config = config.tower_config, tower
    if own is None or own.model_type != tower.model_type:
        config.image_size = tower.image_size
        if config.adapters is not None:
            config.adapters = config.adapters | {"tower_targets": None}
    config.image_token_id = decoder.vocab_size - 1
    return config


def _shorten_decoder(decoder: PreTrainedConfig, *, factor: int, depth: int) -> None:
    """Divide a decoder's vocabulary by a factor, and set its number of layers."""
    decoder.vocab_size = math.ceil(decoder.vocab_size / factor)
    decoder.pad_token_id = decoder.bos_token_id = decoder.eos_token_id = None
    decoder.num_hidden_layers = depth
    if getattr(decoder, "layer_types", None):
        decoder.layer_types = (decoder.layer_types * depth)[:depth]  # repeats those of one layer


def narrowing_factor(model: VisualChat) -> int:
    """Return the greatest power of two, 32 at most, that divides all widths of the model."""
    decoder, tower = model.config.decoder_config, twin_tower_config(model)
    assert decoder is not None  # a built model has both
    factor = MAX_FACTOR
    while factor > 1 and not (_can_divide(decoder, factor) and _can_divide(tower, factor)):
        factor //= 2
    return factor


def _can_divide(part: PreTrainedConfig, factor: int) -> bool:
    widths = [getattr(part, name, None) for name in WIDTHS]
    head = getattr(part, "head_dim", None) or part.hidden_size // part.num_attention_heads
    exact = all(width % factor == 0 for width in (*filter(None, widths), head))
    return exact and head // factor >= MIN_HEAD_WIDTH


def has_narrow_twin(tower: PreTrainedConfig) -> bool:
    """Return whether a tower's widths have the names in `WIDTHS`, so that it can be narrowed."""
    return tower.model_type in HUGGING_FACE_TOWERS


def twin_tower_config(model: VisualChat) -> PreTrainedConfig:
    """Return the configuration of the twin's tower, before it is narrowed.

    That of the model's own tower, or, for a tower that cannot be narrowed, a CLIP or SigLIP tower
    without layers. The latter has the same width and number of features, so that the parts that
    read its output are measured correctly.
    """
    own = model.config.tower_config
    assert own is not None
    if has_narrow_twin(own):
        return copy.deepcopy(own)
    positions = model.tower.num_features - model.tower.has_class_position
    model_type = "clip_vision_model" if model.tower.has_class_position else "siglip_vision_model"
    like: PreTrainedConfig = AutoConfig.for_model(
        model_type,
        hidden_size=model.tower.width,
        intermediate_size=4 * model.tower.width,
        num_attention_heads=1,
        num_hidden_layers=0,
        patch_size=PATCH,
        image_size=PATCH * math.isqrt(positions),
    )
    if model_type == "siglip_vision_model":
        like.vision_use_head = False
    return like


def full_rows(model: VisualChat, batch: MicroBatch) -> dict[str, torch.Tensor]:
    """Return rows without padding: images first, then text, the last of it supervised."""
    slot, per_image = model.config.image_token_id, model.config.positions_per_image
    images = batch.images // batch.rows
    ids = torch.zeros(batch.rows, batch.positions, dtype=torch.int64)
    ids[:, : images * per_image] = slot
    labels = torch.full_like(ids, IGNORED)
    labels[:, -min(SUPERVISED, batch.supervised // batch.rows) :] = 0
    side = model.config.image_size
    return {
        "input_ids": ids,
        "labels": labels,
        "segment_ids": torch.ones_like(ids),
        "pixel_values": torch.zeros(images * batch.rows, 3, side, side, dtype=torch.uint8),
    }
