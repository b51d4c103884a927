"""Count the floating-point operations of training: the unit of a run's hours and of its MFU.

A multiplication and an addition are two operations. Counted are the matrix products of the model as
it is defined. What gradient checkpointing computes again is not counted, so the share of the
hardware's peak (MFU) can be compared between runs. Norms, softmax and the optimizer are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from vchat.model.four_bit import FourBitLinear
from vchat.model.towers.hugging_face import OUR_TOWERS
from vchat.model.visual_chat import VisualChat
from vchat.shards.plan.epoch import EpochPlan
from vchat.train.costs.tower_cost import tower_flops


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """Operations of training, forward and backward, by part of the model."""

    per_position: float
    """Of the decoder's layers without attention, for one position of text or image."""

    per_pair: float
    """Of the attention of all layers, for one pair of query and key."""

    per_supervised: float
    """Of the output head, for one supervised token."""

    per_image: float
    """Of tower and projection, for one image."""

    def total(self, *, positions: float, pairs: float, supervised: float, images: float) -> float:
        """Return the operations of the given numbers of each."""
        return (
            positions * self.per_position
            + pairs * self.per_pair
            + supervised * self.per_supervised
            + images * self.per_image
        )


def flops_of(model: VisualChat) -> Flops:
    """Count the operations of a model, which may be on the meta device.

    `requires_grad` says which parameters are trained. The backward pass of a part costs one forward
    pass for its trained weights, and one more for the gradient of its input if anything before it
    is trained.
    """
    decoder, tower = model.decoder.get_decoder(), model.tower
    before = (tower, model.projection, model.get_input_embeddings())
    inputs_trained = any(is_trained(module) for module in before)
    return Flops(
        per_position=_product_flops(decoder, with_input=inputs_trained),
        per_pair=_pair_flops(model.config.decoder_config)
        * (3 if inputs_trained or is_trained(decoder) else 1),
        per_supervised=_product_flops(model.get_output_embeddings(), with_input=True),
        per_image=_tower_training_flops(model)
        + _product_flops(model.projection, with_input=is_trained(tower)) * tower.num_features,
    )


def _tower_training_flops(model: VisualChat) -> float:
    """Return the operations of the tower on one image; those of our own kinds are run."""
    tower, config = model.tower, model.tower.model.config
    trained = is_trained(tower)
    if config.model_type in OUR_TOWERS:
        matrices = [p for p in tower.parameters() if len(shape_of(p)) >= 2]
        of_trained = sum(shape_of(p).numel() for p in matrices if p.requires_grad)
        share = of_trained / sum(shape_of(p).numel() for p in matrices)
        return tower_flops(model.config) * (1 + trained + share)
    patches = _patches(model)
    return _product_flops(tower, with_input=trained) * patches + _pair_flops(
        config
    ) * patches**2 * (3 if trained else 1)


def pairs_of_epoch(plan: EpochPlan, *, attention: str) -> float:
    """Count the pairs of query and key that the attention of one epoch scores.

    Causal attention: half of a dialogue's length squared. Multi-modal causal attention: only text
    scores keys, and images count as if they stood before all text of their dialogue.
    """
    index, used = plan.index, plan.samples
    text = index.text_tokens[used].astype(np.float64)
    image = index.image_positions(plan.arguments.grid)[used].astype(np.float64)
    if attention == "causal":
        return float(((text + image) ** 2 / 2).sum())
    return float((text**2 / 2 + text * image).sum())


def is_trained(module: nn.Module) -> bool:
    """Return whether any parameter of a module is trained."""
    return any(p.requires_grad for p in module.parameters())


def shape_of(parameter: torch.Tensor) -> torch.Size:
    """Return the whole shape of a parameter, which ZeRO-3 may have partitioned."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


def _product_flops(module: nn.Module, *, with_input: bool) -> float:
    """Return the operations of one position's matrix products; embedding tables cost none."""
    tables = {
        id(p) for m in module.modules() if isinstance(m, nn.Embedding) for p in m.parameters()
    }
    products = [
        2.0 * shape_of(p).numel() * (1 + with_input + p.requires_grad)
        for p in module.parameters()
        if len(shape_of(p)) >= 2 and id(p) not in tables
    ]
    four_bit = [
        2.0 * m.in_features * m.out_features * (1 + with_input)
        for m in module.modules()
        if isinstance(m, FourBitLinear)
    ]
    return sum(products) + sum(four_bit)


def _patches(model: VisualChat) -> int:
    """Return the number of positions inside a CLIP or SigLIP tower."""
    patches = (model.config.image_size // int(model.tower.model.config.patch_size)) ** 2
    return max(patches, int(model.tower.num_features))


def _pair_flops(config: Any) -> float:
    """Return the forward operations of one score and its weighted value, in all layers."""
    heads = int(config.num_attention_heads)
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return 4.0 * heads * int(width) * int(config.num_hidden_layers)
