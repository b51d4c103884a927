"""The model of a run, its parameter groups, and the DeepSpeed engine around them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import deepspeed
import torch
import transformers
from torch import nn
from vchat.model.visual_chat import VisualChat
from vchat.train.config import ModelConfig, OptimizerConfig, Part, RunConfig
from vchat.train.deepspeed_config import deepspeed_dictionary

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def build_model(config: ModelConfig, *, image_token_id: int, num_ids: int, seed: int) -> VisualChat:
    """Make the model a run starts from, in fp32 on the CPU; equal seeds give equal weights.

    Raises:
        ValueError: if a folder does not hold such a model.
    """
    torch.manual_seed(seed)
    if config.start_from is not None:
        return load_model(config.start_from)
    assert config.decoder is not None  # ModelConfig checks both
    assert config.tower is not None
    decoder = _part(config.decoder, transformers.AutoModelForCausalLM, num_ids=num_ids)
    tower = _part(config.tower, transformers.AutoModel, num_ids=None)
    return VisualChat.from_parts(
        tower=tower,
        decoder=decoder,
        image_token_id=image_token_id,
        num_ids=num_ids,
        attention=config.attention,
    )


def load_model(folder: Path) -> VisualChat:
    """Load a VisualChat folder, or the model of a checkpoint, in fp32."""
    inside = folder / "model"
    place = inside if inside.is_dir() else folder
    if not (place / "config.json").is_file():
        raise ValueError(f"{folder}: no model there (config.json is missing)")
    model: VisualChat = VisualChat.from_pretrained(place, dtype=torch.float32)
    return model


def _part(source: str | dict[str, Any], auto: Any, *, num_ids: int | None) -> nn.Module:
    """A pretrained module from its folder, or a new one from a table of its configuration."""
    if isinstance(source, str):
        if not Path(source).is_dir():
            raise ValueError(f"{source}: want a folder with a pretrained model, found none")
        return auto.from_pretrained(source, dtype=torch.float32, local_files_only=True)
    fields = dict(source)
    if num_ids is not None:
        fields["vocab_size"] = num_ids
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    return auto.from_config(config, dtype=torch.float32)


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


def start_engine(
    model: VisualChat, config: RunConfig, *, world_size: int
) -> deepspeed.DeepSpeedEngine:
    """Hand model and optimizer to DeepSpeed; from here on it owns the weights."""
    train_only(model, config.train.parts)
    if config.train.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.to(DTYPES[config.train.precision])
    optimizer = torch.optim.AdamW(
        parameter_groups(model, config.optimizer),
        lr=config.optimizer.lr,
        betas=(config.optimizer.betas[0], config.optimizer.betas[1]),
        eps=config.optimizer.eps,
    )
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        config=deepspeed_dictionary(config, world_size=world_size),
        dist_init_required=False,
    )
    return engine


def set_learning_rate(engine: deepspeed.DeepSpeedEngine, rate: float) -> None:
    """Use this rate in the next optimizer step, for every group."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate


def whole_weights(engine: deepspeed.DeepSpeedEngine) -> dict[str, torch.Tensor]:
    """Return all weights on the CPU of rank 0, an empty dictionary elsewhere. All ranks call it.

    Under ZeRO-3 one parameter at a time is gathered. Tied weights stay one tensor.
    """
    keep = torch.distributed.get_rank() == 0
    copies: dict[int, torch.Tensor] = {}
    weights: dict[str, torch.Tensor] = {}
    for name, parameter in engine.module.named_parameters(remove_duplicate=False):
        if id(parameter) not in copies:
            with deepspeed.zero.GatheredParameters([parameter]):
                whole = parameter.detach()
                copies[id(parameter)] = whole.to("cpu", copy=True) if keep else whole.new_empty(0)
        weights[name] = copies[id(parameter)]
    buffers = {n: b.cpu() for n, b in engine.module.state_dict().items() if n not in weights}
    return weights | buffers if keep else {}
