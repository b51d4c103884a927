"""Foreign checkpoint folders: the names of their tensors, and the tensors, one file at a time.

Reads what Hugging Face folders hold: `model.safetensors` or `pytorch_model.bin`, whole or in parts
listed by an index. A `.bin` is a pickle and is read with `weights_only=True`, which makes tensors
and nothing else.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

WHOLE = ("model.safetensors", "pytorch_model.bin")


def read_weights(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield every `(name, tensor)` of a checkpoint folder or of one file; one file is in memory.

    Raises:
        ValueError: there are no weights, an index leads out of the folder, or a file is damaged or
            holds anything but tensors.
    """
    for file in find_weight_files(path):
        yield from _read(file).items()


def find_weight_files(path: Path) -> list[Path]:
    """Return the files that hold the weights of a folder, each once; safetensors are preferred."""
    if path.is_file():
        return [path]
    for name in WHOLE:
        index = path / f"{name}.index.json"
        if index.is_file():
            parts = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
            if any(Path(part).name != part for part in parts):
                raise ValueError(f"{index}: names files outside its folder: {', '.join(parts)}")
            return [path / part for part in parts]
        if (path / name).is_file():
            return [path / name]
    raise ValueError(f"{path}: no weights there; want {' or '.join(WHOLE)}, whole or with an index")


def _read(file: Path) -> dict[str, Tensor]:
    """Return the tensors of one file."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, EOFError) as err:
        raise ValueError(f"{file}: not a file of weights: {str(err).splitlines()[0]}") from err
    if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
        raise ValueError(f"{file}: want a dictionary of tensors, found {type(found).__name__}")
    return found
