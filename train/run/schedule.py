"""The learning rate of a step: a pure function, so there is no schedule state to save."""

from __future__ import annotations

import math

from vchat.train.config.run import OptimizerConfig


def learning_rate(step: int, *, total_steps: int, optimizer: OptimizerConfig) -> float:
    """Return the rate of optimizer step `step`, counted from 1 to `total_steps`.

    Warm-up is linear and reaches `lr` at step `warmup_steps`; from there the rate falls to
    `final_lr_fraction * lr` at the last step, along half a cosine or a line, or stays.
    """
    if step <= optimizer.warmup_steps:
        return optimizer.lr * step / optimizer.warmup_steps
    if optimizer.schedule == "constant":
        return optimizer.lr
    passed = (step - optimizer.warmup_steps) / max(1, total_steps - optimizer.warmup_steps)
    height = 1 - passed
    if optimizer.schedule == "cosine":
        height = 0.5 * (1 + math.cos(math.pi * passed))
    floor = optimizer.final_lr_fraction
    return optimizer.lr * (floor + (1 - floor) * height)
