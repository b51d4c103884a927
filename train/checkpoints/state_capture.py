"""Copy what one rank saves to memory, so that training goes on while it is written."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine


class StateCapture(TorchCheckpointEngine):  # type: ignore[misc]
    """Keeps copies of what DeepSpeed would write."""

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[Path, Any] = {}
        """Path of each file -> a copy of what goes into it."""

    def save(self, state_dict: Any, path: str) -> None:
        """Copy a state instead of writing it."""
        self.states[Path(path)] = copy_to_cpu(state_dict)

    def write(self) -> None:
        """Write all files as DeepSpeed would have, and drop the copies."""
        while self.states:
            path, state = self.states.popitem()
            torch.save(state, path)


def capture_state(engine: deepspeed.DeepSpeedEngine, folder: Path, *, tag: str) -> StateCapture:
    """Copy this rank's optimizer state and trained weights; all ranks call it.

    The folder must exist. Costs the memory of one copy of what this rank saves.
    """
    with _capture_saves(engine) as capture:
        engine.save_checkpoint(
            str(folder), tag=tag, save_latest=False, exclude_frozen_parameters=True
        )
    return capture


@contextmanager
def _capture_saves(engine: deepspeed.DeepSpeedEngine) -> Iterator[StateCapture]:
    engine_writer, capture = engine.checkpoint_engine, StateCapture()
    engine.checkpoint_engine = capture
    try:
        yield capture
    finally:
        engine.checkpoint_engine = engine_writer


def copy_to_cpu(value: Any) -> Any:
    """Copy a state deeply: tensors to CPU memory, containers with their types."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        twin = copy.copy(value)  # of the same type, with its attributes
        for key, inner in value.items():
            twin[key] = copy_to_cpu(inner)
        return twin
    if type(value) in (list, tuple):
        return type(value)(copy_to_cpu(inner) for inner in value)
    return copy.deepcopy(value)
