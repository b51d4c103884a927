"""The DeepSpeed engine of a run: start it, take a micro-batch's loss, collect its weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import deepspeed
import torch

from vchat.model.visual_chat import VisualChat
from vchat.shards.loading.collate import Batch
from vchat.train.config.run import OptimizerConfig, TrainConfig
from vchat.train.engine.parts import freeze_other_parts, parameter_groups

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class BatchLoss(NamedTuple):
    """Cross entropy of a micro-batch."""

    loss_sum: torch.Tensor
    """float32[], over its supervised tokens."""

    target_losses: torch.Tensor
    """float32[T], of each of them, row by row, without gradients."""

    target_indices: torch.Tensor
    """int64[T, 2], row and column of each of them in the batch."""


def start_engine(
    model: VisualChat,
    train: TrainConfig,
    optimizer: OptimizerConfig,
    *,
    deepspeed_settings: dict[str, Any],
) -> deepspeed.DeepSpeedEngine:
    """Give model and optimizer to DeepSpeed, which owns the weights from here on.

    Parameters get the run's precision. Buffers (rotary frequencies) stay as they are.

    Args:
        deepspeed_settings: made by `deepspeed_dictionary`.
    """
    model.train()  # a loaded model comes without dropout
    freeze_other_parts(model, train.parts)
    if train.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    for parameter in model.parameters():  # and no buffer
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(DTYPES[train.precision])
    adam = torch.optim.AdamW(
        parameter_groups(model, optimizer),
        lr=0.0,  # the loop sets the rate of every step
        betas=(optimizer.betas[0], optimizer.betas[1]),
        eps=optimizer.eps,
    )
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=adam, config=deepspeed_settings, dist_init_required=False
    )
    if engine.zero_optimization_stage() == 0:
        # In bf16 and fp16 DeepSpeed has made a step with gradients of zero, to allocate the state.
        # At a rate of 0 that moves nothing, but Adam's bias correction counts it.
        adam.state.clear()
    return engine


def batch_loss(engine: deepspeed.DeepSpeedEngine | VisualChat, batch: Batch) -> BatchLoss:
    """Return the cross entropy of a micro-batch, in sum and of each supervised token."""
    batch = batch.to(engine.device)
    output = engine(
        input_ids=batch.token_ids,
        pixel_values=batch.pixels,
        position_ids=batch.position_ids,
        segment_ids=batch.segment_ids,
        labels=batch.labels,
    )
    return BatchLoss(
        loss_sum=output.loss,
        target_losses=output.target_losses,
        target_indices=output.target_indices,
    )


def add_gradients(engine: deepspeed.DeepSpeedEngine, loss: torch.Tensor) -> None:
    """Add the gradients of a micro-batch's loss to those of the step.

    Of fp16 without ZeRO, DeepSpeed 0.19 divides the gradients by the loss scale without having
    multiplied the loss by it: 1 / 65536 of them reach Adam, where `eps` is no longer small.
    """
    if engine.fp16_enabled() and not engine.zero_optimization():
        loss = loss * engine.optimizer.loss_scale
    engine.backward(loss)


def set_learning_rate(engine: deepspeed.DeepSpeedEngine, rate: float) -> None:
    """Set the rate of the next optimizer step; each group multiplies it by its `rate_factor`."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"]


def gather_all_weights(engine: deepspeed.DeepSpeedEngine) -> dict[str, torch.Tensor]:
    """Return all weights on the CPU of rank 0, an empty dictionary elsewhere. All ranks call it."""
    trained, frozen = (gather_weights(engine, is_trained=which) for which in (True, False))
    return trained | frozen


def gather_weights(
    engine: deepspeed.DeepSpeedEngine, *, is_trained: bool
) -> dict[str, torch.Tensor]:
    """Return the trained weights, or all others and the buffers, on the CPU of rank 0.

    All ranks call it; elsewhere the dictionary is empty. Under ZeRO-3 one parameter at a time is
    gathered. Of tied weights, the first name stands for all.
    """
    keep = torch.distributed.get_rank() == 0
    weights: dict[str, torch.Tensor] = {}
    for name, parameter in engine.module.named_parameters():
        if parameter.requires_grad == is_trained:
            with deepspeed.zero.GatheredParameters([parameter]):
                whole = parameter.detach()
                weights[name] = whole.to("cpu", copy=True) if keep else whole.new_empty(0)
    if not is_trained:
        parameters = {name for name, _ in engine.module.named_parameters(remove_duplicate=False)}
        state = engine.module.state_dict()
        weights |= {
            name: value.to("cpu", copy=True)
            for name, value in state.items()
            if name not in parameters
        }
    return weights if keep else {}
