"""Memory that a micro-batch needs beside weights and optimizer, measured on a narrow twin.

The twin is the same model in which every width (hidden, inner, head, vocabulary) is divided by one
number and the layers are few, given a part of the rows. It runs forward and backward on the CPU,
matrix products apart, while every tensor it makes is counted: so gradient checkpointing, frozen
parts, LoRA and whatever the attention keeps are in the measurement. What a layer keeps is a
constant plus a multiple of its width, and a multiple of the positions, so four twins of two widths
and two depths give the whole model; the loss, whose chunks have a fixed size, is added by
arithmetic. A GPU's workspaces and fragmentation are not in it.

A tower of open_clip or of Qwen-VL is not narrowed: a CLIP tower without layers stands in the twin,
and the tower itself is measured at its true size, see `tower_cost.py`.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import torch
from transformers import AutoConfig, PreTrainedConfig

from vchat.model.loss import LOGITS_PER_CHUNK
from vchat.model.towers.hugging_face import HUGGING_FACE_TOWERS
from vchat.model.visual_chat import VisualChat
from vchat.train.config.run import RunConfig
from vchat.train.costs.flops import is_trained, shape_of
from vchat.train.costs.live_bytes import LiveBytes, MemoryUse, drop_gradients
from vchat.train.costs.tower_cost import tower_bytes
from vchat.train.engine.engine import DTYPES
from vchat.train.engine.parts import freeze_other_parts

WIDTHS = ("hidden_size", "intermediate_size", "head_dim")
DEPTHS = (2, 3)
FEWEST_POSITIONS = 256
PATCH = 14
LEAST_HEAD_WIDTH = 4
SUPERVISED = 8
"""Labels in a twin's row: few, because the loss is added by arithmetic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """What one forward pass is given."""

    rows: int
    positions: int
    """Of one row."""

    images: int
    """In all rows together."""

    supervised: int
    """Tokens, in all rows together."""


def activation_bytes(model: VisualChat, config: RunConfig, *, batch: MicroBatch) -> int:
    """Estimate the most memory that one micro-batch takes on a GPU beside the model's state.

    Args:
        model: of true size, without memory, its trained parameters marked.
    """
    narrow, parts = narrowing_factor(model), num_parts(batch, model.config.positions_per_image)
    part = replace(batch, positions=batch.positions // parts, images=batch.images // parts)
    depth = int(model.decoder.config.num_hidden_layers)

    def of_width(factor: int) -> MemoryUse:
        shallow, deep = (
            measure(build_twin(model, config, factor=factor, depth=layers), part)
            for layers in DEPTHS
        )
        return deep.extrapolate(shallow, times=(depth - DEPTHS[1]) / (DEPTHS[1] - DEPTHS[0]))

    whole = of_width(max(1, narrow // 2))
    if narrow > 1:  # a + b / factor, drawn on from `narrow` and half of it to factor 1
        whole = whole.extrapolate(of_width(narrow), times=narrow - 2)
    in_loss = loss_bytes(model, config, supervised=batch.supervised)
    in_tower = own_tower_bytes(model, config, images=batch.images)
    beside = max(whole.peak * parts, whole.kept * parts + in_loss)
    return round(max(in_tower.kept + beside, in_tower.peak))


def own_tower_bytes(model: VisualChat, config: RunConfig, *, images: int) -> MemoryUse:
    """What a tower takes that has a stand-in in the twins; nothing if it has none."""
    if has_narrow_twin(model.tower.model.config) or not images:
        return MemoryUse(kept=0, peak=0)
    return tower_bytes(model.tower, dtype=DTYPES[config.train.precision], images=images)


def num_parts(batch: MicroBatch, positions_per_image: int) -> int:
    """Into how many equal parts, whole images each, a row can be cut that still hold some text."""
    images = batch.images // batch.rows
    most = max(1, batch.positions // FEWEST_POSITIONS)
    fitting = (
        parts
        for parts in range(most, 0, -1)
        if images % parts == 0
        and images // parts * positions_per_image + SUPERVISED < batch.positions // parts
    )
    return next(fitting, 1)


def loss_bytes(model: VisualChat, config: RunConfig, *, supervised: int) -> int:
    """Logits of a chunk, their gradient and its narrow copy, and the head's own gradient."""
    head = model.get_output_embeddings()
    num_ids, width = shape_of(head.weight)
    bytes_each = DTYPES[config.train.precision].itemsize
    logits = min(supervised * num_ids, max(LOGITS_PER_CHUNK, num_ids))
    of_head = num_ids * width * (4 + bytes_each) if head.weight.requires_grad else 0
    return logits * (4 + 4 + bytes_each) + of_head + supervised * width * (4 + bytes_each)


def narrowing_factor(model: VisualChat) -> int:
    """Return the greatest power of two, 32 at most, that all widths of the model allow."""
    decoder, tower = model.config.decoder_config, tower_of_twin(model)
    assert decoder is not None  # a built model has both
    factor = 32
    while factor > 1 and not (_allows(decoder, factor) and _allows(tower, factor)):
        factor //= 2
    return factor


def _allows(part: PreTrainedConfig, factor: int) -> bool:
    widths = [getattr(part, name, None) for name in WIDTHS]
    head = getattr(part, "head_dim", None) or part.hidden_size // part.num_attention_heads
    exact = all(width % factor == 0 for width in (*filter(None, widths), head))
    return exact and head // factor >= LEAST_HEAD_WIDTH


def has_narrow_twin(tower: PreTrainedConfig) -> bool:
    """Whether all widths of a tower can be narrowed by the names in `WIDTHS`."""
    return tower.model_type in HUGGING_FACE_TOWERS


def tower_of_twin(model: VisualChat) -> PreTrainedConfig:
    """The configuration of the tower, or of a CLIP tower without layers in place of another make.

    A stand-in has the width and the number of features, so what reads it is measured rightly.
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


def measure(twin: VisualChat, batch: MicroBatch) -> MemoryUse:
    """Run a model forward and backward; count what is alive beside its weights and gradients."""
    drop_gradients(twin)
    live = LiveBytes()
    live.ignore([*twin.parameters(), *twin.buffers()])
    with live:
        loss = twin(**full_rows(twin, batch)).loss
        kept = live.now
        loss.backward()
    return MemoryUse(kept=kept, peak=live.peak)


def build_twin(model: VisualChat, config: RunConfig, *, factor: int, depth: int) -> VisualChat:
    """Make the narrow model with fresh weights, in the run's precision, frozen as the run says.

    A frozen tower keeps nothing of a layer, so two of its layers stand for all. 4-bit layers are
    plain ones there: what they take beside is counted with the weights.
    """
    made = copy.deepcopy(model.config)
    decoder, tower = made.decoder_config, tower_of_twin(model)
    assert decoder is not None
    for part in (decoder, tower):
        for name in WIDTHS:
            if getattr(part, name, None):
                setattr(part, name, getattr(part, name) // factor)
    decoder.vocab_size = math.ceil(decoder.vocab_size / factor)
    decoder.pad_token_id = decoder.bos_token_id = decoder.eos_token_id = None
    decoder.num_hidden_layers = depth
    if getattr(decoder, "layer_types", None):
        decoder.layer_types = (decoder.layer_types * depth)[:depth]  # of a model of one, too
    if not is_trained(model.tower):
        tower.num_hidden_layers = min(2, tower.num_hidden_layers)
    made.four_bit_decoder = False
    own, made.tower_config = made.tower_config, tower
    if own is None or own.model_type != tower.model_type:
        made.image_size = tower.image_size
        if made.adapters is not None:
            made.adapters = made.adapters | {"tower_targets": None}
    made.image_token_id = decoder.vocab_size - 1
    twin = VisualChat(made)
    freeze_other_parts(twin, config.train.parts)
    if config.train.gradient_checkpointing:
        twin.activation_checkpointing_enable({"use_reentrant": False})
    twin.to(DTYPES[config.train.precision])
    twin.train()
    return twin


def full_rows(model: VisualChat, batch: MicroBatch) -> dict[str, torch.Tensor]:
    """Rows without padding: images first, then text, the last of it supervised."""
    slot, per_image = model.config.image_token_id, model.config.positions_per_image
    images = batch.images // batch.rows
    ids = torch.zeros(batch.rows, batch.positions, dtype=torch.int64)
    ids[:, : images * per_image] = slot
    labels = torch.full_like(ids, -100)
    labels[:, -min(SUPERVISED, batch.supervised // batch.rows) :] = 0
    side = model.config.image_size
    return {
        "input_ids": ids,
        "labels": labels,
        "segment_ids": torch.ones_like(ids),
        "pixel_values": torch.zeros(images * batch.rows, 3, side, side, dtype=torch.uint8),
    }
