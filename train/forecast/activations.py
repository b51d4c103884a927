"""Memory that a micro-batch needs beside weights and optimizer, measured on narrow twins.

What a layer saves is a constant plus a multiple of its width, and a multiple of the positions. So
four twins (`twin.py`) of two widths and two depths, run on a part of the rows, give the memory of
the whole model. The loss, whose chunks have a fixed size, is added by arithmetic. A GPU's
workspaces and fragmentation are not included.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from vchat.model.loss import LOGITS_PER_CHUNK
from vchat.model.visual_chat import VisualChat
from vchat.train.costs.flops import shape_of
from vchat.train.costs.live_bytes import MemoryUse
from vchat.train.costs.tower_cost import tower_bytes
from vchat.train.forecast.twin import (
    SUPERVISED,
    MicroBatch,
    TwinSettings,
    build_twin,
    has_narrow_twin,
    measure_activations,
    narrowing_factor,
)

DEPTHS = (2, 3)
MIN_POSITIONS = 256
"""Of a part of a row that is run."""


def activation_bytes(model: VisualChat, settings: TwinSettings, *, batch: MicroBatch) -> int:
    """Estimate the most memory that one micro-batch takes on a GPU beside the model's state.

    Args:
        model: Of true size, on the meta device; `requires_grad` says what is trained.
        settings: Its precision, trained parts and checkpointing.
        batch: The micro-batch.
    """
    narrow, parts = narrowing_factor(model), num_parts(batch, model.config.positions_per_image)
    part = replace(batch, positions=batch.positions // parts, images=batch.images // parts)
    depth = int(model.decoder.config.num_hidden_layers)

    def extrapolate_depth(factor: int) -> MemoryUse:
        shallow, deep = (
            measure_activations(build_twin(model, settings, factor=factor, depth=layers), part)
            for layers in DEPTHS
        )
        return deep.extrapolate(shallow, times=(depth - DEPTHS[1]) / (DEPTHS[1] - DEPTHS[0]))

    whole = extrapolate_depth(max(1, narrow // 2))
    if narrow > 1:  # a + b / factor, extrapolated from `narrow` and half of it to factor 1
        whole = whole.extrapolate(extrapolate_depth(narrow), times=narrow - 2)
    in_loss = loss_bytes(model, settings.dtype, supervised=batch.supervised)
    in_tower = own_tower_bytes(model, settings.dtype, images=batch.images)
    beside = max(whole.peak * parts, whole.kept * parts + in_loss)
    return round(max(in_tower.kept + beside, in_tower.peak))


def own_tower_bytes(model: VisualChat, dtype: torch.dtype, *, images: int) -> MemoryUse:
    """Return the memory of a tower that the twins replace; zero if they have it themselves."""
    if has_narrow_twin(model.tower.model.config) or not images:
        return MemoryUse(kept=0, peak=0)
    return tower_bytes(model.tower, dtype=dtype, images=images)


def num_parts(batch: MicroBatch, positions_per_image: int) -> int:
    """Return the most equal parts of a row that each have whole images and some text."""
    images = batch.images // batch.rows
    most = max(1, batch.positions // MIN_POSITIONS)
    possible = (
        parts
        for parts in range(most, 0, -1)
        if images % parts == 0
        and images // parts * positions_per_image + SUPERVISED < batch.positions // parts
    )
    return next(possible, 1)


def loss_bytes(model: VisualChat, dtype: torch.dtype, *, supervised: int) -> int:
    """Return the memory of the loss.

    A chunk's logits, their gradient and its copy in `dtype`, and the gradient of the output head.
    """
    head = model.get_output_embeddings()
    num_ids, width = shape_of(head.weight)
    bytes_each = dtype.itemsize
    logits = min(supervised * num_ids, max(LOGITS_PER_CHUNK, num_ids))
    of_head = num_ids * width * (4 + bytes_each) if head.weight.requires_grad else 0
    return logits * (4 + 4 + bytes_each) + of_head + supervised * width * (4 + bytes_each)
