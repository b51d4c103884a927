"""The parts of a model: which are trained, and how the optimizer groups their parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from vchat.model.adapters import is_adapter
from vchat.model.visual_chat import VisualChat
from vchat.train.config.run import OptimizerConfig, Part
from vchat.train.costs.flops import shape_of


def freeze_other_parts(model: VisualChat, parts: Sequence[Part]) -> None:
    """Freeze everything but the named parts and all adapters.

    Raises:
        ValueError: a part is named that has adapters: these are there to keep it frozen.
    """
    adapters = {id(p) for name, p in model.named_parameters() if is_adapter(name)}
    model.requires_grad_(False)
    for part in parts:
        parameters = list(part_parameters(model, part))
        if any(id(parameter) in adapters for parameter in parameters):
            raise ValueError(f"model.lora adapts the {part}: leave it out of train.parts")
        for parameter in parameters:
            parameter.requires_grad_(True)
    for parameter in model.parameters():
        if id(parameter) in adapters:
            parameter.requires_grad_(True)


def part_parameters(model: VisualChat, part: Part) -> Iterator[nn.Parameter]:
    """Yield the parameters of one part. `decoder` is all of it but embeddings and head."""
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
        # With a table for prompts, training never reads the decoder's own embeddings.
        others = (embeddings, head, model.decoder.get_input_embeddings())
        apart = {id(p) for module in others for p in module.parameters()}
        yield from (p for p in model.decoder.parameters() if id(p) not in apart)


def parameter_groups(model: VisualChat, optimizer: OptimizerConfig) -> list[dict[str, Any]]:
    """Group the trained parameters: only matrices decay; embeddings may have their own rate.

    `rate_factor` of a group is its learning rate as a multiple of the run's.

    Raises:
        ValueError: if nothing is trained.
    """
    embeddings = {id(p) for p in model.get_input_embeddings().parameters()}
    factor = (optimizer.embedding_lr or optimizer.lr) / optimizer.lr
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            decay = optimizer.weight_decay if len(shape_of(parameter)) >= 2 else 0.0
            rate_factor = factor if id(parameter) in embeddings else 1.0
            groups.setdefault((decay, rate_factor), []).append(parameter)
    if not groups:
        raise ValueError("train.parts names nothing: no parameter is trained")
    return [
        {"params": parameters, "weight_decay": decay, "rate_factor": rate_factor}
        for (decay, rate_factor), parameters in groups.items()
    ]
