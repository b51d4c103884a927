"""The parts of a model: which are trained, and how the optimizer groups their parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from vchat.model.visual_chat import VisualChat
from vchat.train.config import OptimizerConfig, Part


def train_only(model: VisualChat, parts: Sequence[Part]) -> None:
    """Freeze everything but the named parts."""
    model.requires_grad_(False)
    for part in parts:
        for parameter in part_parameters(model, part):
            parameter.requires_grad_(True)


def part_parameters(model: VisualChat, part: Part) -> Iterator[nn.Parameter]:
    """The parameters of one part. `decoder` is what embeddings and head leave of it."""
    embeddings = model.get_input_embeddings()
    head = model.get_output_embeddings()
    if part == "embeddings":
        yield from embeddings.parameters()
    elif part == "head":
        yield from head.parameters()
    elif part == "projection":
        yield from model.projection.parameters()
    elif part == "tower":
        yield from model.tower.parameters()
    else:
        apart = {id(p) for module in (embeddings, head) for p in module.parameters()}
        yield from (p for p in model.decoder.parameters() if id(p) not in apart)


def parameter_groups(model: nn.Module, optimizer: OptimizerConfig) -> list[dict[str, Any]]:
    """Two groups of trained parameters: matrices, which decay, and vectors, which do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("train.parts names nothing: no parameter is trained")
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": optimizer.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
