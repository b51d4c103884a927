"""The random state of a rank: the generators that dropout draws from."""

from __future__ import annotations

import torch
from safetensors.torch import load_file

from vchat.train.checkpoints.checkpoint import Checkpoint


def random_state_file(rank: int) -> str:
    """Name of the file in a step folder that holds the random state of a rank."""
    return f"rng/rank-{rank:05d}.safetensors"


def read_random_state() -> dict[str, torch.Tensor]:
    """Copy the state of torch's generators; our own code uses no global random state."""
    states = {"cpu": torch.get_rng_state()}
    if torch.accelerator.is_available():
        states["device"] = torch.get_device_module().get_rng_state()
    return states


def load_random_state(checkpoint: Checkpoint, *, rank: int) -> None:
    """Set the state that a rank saved; a rank that the saving run did not have keeps its own."""
    name = random_state_file(rank)
    if name not in checkpoint.files:
        return
    states = load_file(checkpoint.folder / name)
    torch.set_rng_state(states["cpu"])
    if "device" in states and torch.accelerator.is_available():
        torch.get_device_module().set_rng_state(states["device"])
