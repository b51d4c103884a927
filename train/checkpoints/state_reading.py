"""Read what DeepSpeed saved without executing it.

DeepSpeed's files are pickles, which can name any function to be called. Inside `read_weights_only`
torch reads tensors, plain containers and the few classes that DeepSpeed itself saves, and refuses
whatever else a file names before anything of it is called. DeepSpeed asks torch for more; torch's
own switch for the environment overrides that.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address

SAVED_CLASSES = (DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address)
"""What DeepSpeed saves beside tensors and plain values; none of it does anything when made."""

_WEIGHTS_ONLY, _NOT_WEIGHTS_ONLY = (
    "TORCH_FORCE_WEIGHTS_ONLY_LOAD",
    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD",
)


@contextlib.contextmanager
def read_weights_only(folder: Path) -> Iterator[None]:
    """Let every `torch.load` inside the block read weights only, whatever its caller asks for.

    Args:
        folder: What is read inside, for the message.

    Raises:
        ValueError: A file names something else; says which, where it is known.
    """
    before = {name: os.environ.pop(name, None) for name in (_WEIGHTS_ONLY, _NOT_WEIGHTS_ONLY)}
    os.environ[_WEIGHTS_ONLY] = "1"
    try:
        with torch.serialization.safe_globals(list(SAVED_CLASSES)):
            try:
                yield
            except pickle.UnpicklingError as err:
                raise ValueError(_describe_refusal(folder, err)) from err
    finally:
        del os.environ[_WEIGHTS_ONLY]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def _describe_refusal(folder: Path, error: pickle.UnpicklingError) -> str:
    """Name the first file with something foreign in it, and what that is."""
    for file in sorted(folder.rglob("*.pt")):
        with contextlib.suppress(pickle.UnpicklingError, RuntimeError, ValueError, EOFError):
            foreign = torch.serialization.get_unsafe_globals_in_checkpoint(file)
            if foreign:
                return f"{file}: names {', '.join(sorted(foreign)[:5])}, {_WANTED}"
    named = re.search(r"GLOBAL (\S+)", str(error))
    found = f"names {named[1]}" if named else "a file is no such pickle"
    return f"{folder}: {found}, {_WANTED}"


_WANTED = (
    "wanted tensors and plain values, as DeepSpeed saves them; nothing of the file was executed"
)
