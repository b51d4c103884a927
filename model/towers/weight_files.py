"""Foreign checkpoint folders: the names of their tensors, and the tensors, one file at a time.

Reads what Hugging Face folders hold: `model.safetensors` or `pytorch_model.bin`, whole or in parts
listed by an index. A `.bin` is a pickle and is read with `weights_only=True`, which makes tensors
and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

NAMED_KEYS = 20
"""How many kinds of keys an error lists."""

WHOLE = ("model.safetensors", "pytorch_model.bin")


def read_weights(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield every `(name, tensor)` of a checkpoint folder or of one file; one file is in memory.

    Raises:
        ValueError: there are no weights, an index leads out of the folder, or a file is damaged or
            holds anything but tensors.
    """
    for file in find_weight_files(path):
        yield from read_file(file).items()


def find_weight_files(path: Path, *, beside: str | None = None) -> list[Path]:
    """Return the files that hold the weights of a folder, each once; safetensors are preferred.

    Args:
        path: The folder, or one file.
        beside: A pattern of the names of files outside the folder that its index may give.

    Raises:
        ValueError: there are none, or an index is malformed or names other files outside.
    """
    if path.is_file():
        return [path]
    for name in WHOLE:
        if (path / name).is_file():
            return [path / name]
        index = path / f"{name}.index.json"
        if index.is_file():
            parts = _read_index(index)
            others = [part for part in parts if Path(part).name != part]
            odd = [part for part in others if beside is None or not re.fullmatch(beside, part)]
            if odd:
                raise ValueError(f"{index}: names files outside its folder: {', '.join(odd)}")
            return [path / part for part in parts]
    raise ValueError(f"{path}: no weights there; want {' or '.join(WHOLE)}, whole or with an index")


def _read_index(index: Path) -> list[str]:
    """Return the names of the files that an index names."""
    try:
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        parts = sorted(set(files))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as err:
        raise ValueError(f"{index}: not an index of weights: want a weight_map of names") from err
    if not parts or not all(isinstance(part, str) for part in parts):
        raise ValueError(f"{index}: not an index of weights: want a weight_map of names")
    return parts


def describe_weights(files: Iterable[Path]) -> dict[str, Tensor]:
    """Return the weights of files as tensors without memory: names, shapes and types.

    Raises:
        ValueError: a file is missing or damaged, or holds anything but tensors.
    """
    found: dict[str, Tensor] = {}
    for file in files:
        if file.suffix != ".safetensors":
            found |= read_file(file, device="meta")
            continue
        with _open(file) as opened:
            for name in opened.keys():  # noqa: SIM118
                part = opened.get_slice(name)
                found[name] = torch.empty(part.get_shape(), device="meta")
    return found


def open_weights(
    files: Iterable[Path], stack: contextlib.ExitStack, *, lazily: bool
) -> dict[str, Tensor]:
    """Return the weights of files, mapped into memory as long as `stack` lasts.

    Args:
        files: As `find_weight_files` returns them.
        stack: Keeps them open.
        lazily: What lies in safetensors comes as slices, which transformers takes like tensors and
            copies one by one.
    """
    found: dict[str, Tensor] = {}
    for file in files:
        if file.suffix != ".safetensors":
            found |= read_file(file)
            continue
        opened = stack.enter_context(_open(file))
        for name in opened.keys():  # noqa: SIM118
            found[name] = opened.get_slice(name) if lazily else opened.get_tensor(name)
    return found


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as err:
        raise ValueError(f"{file}: the weights do not load: {_first_line(err)}") from err


def read_file(file: Path, *, device: str = "cpu") -> dict[str, Tensor]:
    """Return the tensors of one file.

    Raises:
        ValueError: it is damaged, or holds anything but tensors.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        is_zip = zipfile.is_zipfile(file)  # as torch writes since 1.6; older files cannot be mapped
        found = torch.load(file, map_location=device, weights_only=True, mmap=is_zip)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, EOFError) as err:
        raise ValueError(f"{file}: not a file of weights: {_first_line(err)}") from err
    if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
        raise ValueError(f"{file}: want a dictionary of tensors, found {type(found).__name__}")
    return found


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def compare_weights(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Return in one line how weights differ from those of a model, empty if they fit."""
    return list_problems(
        missing=wanted.keys() - found.keys(),
        unexpected=found.keys() - wanted.keys(),
        misshapen=[
            (name, found[name].shape, wanted[name].shape)
            for name in found.keys() & wanted.keys()
            if found[name].shape != wanted[name].shape
        ],
    )


def list_problems(
    *,
    missing: Iterable[str],
    unexpected: Iterable[str],
    misshapen: Iterable[tuple[str, Sequence[int], Sequence[int]]],
) -> str:
    """Return in one line what is wrong with the weights of a model, empty if nothing is.

    Args:
        missing, unexpected: Keys.
        misshapen: Key, shape found and shape wanted.
    """
    kinds = {
        "missing": list(missing),
        "unexpected": list(unexpected),
        "of another shape": [
            f"{name} is {list(shape)}, wanted {list(other)}" for name, shape, other in misshapen
        ],
    }
    return "; ".join(
        f"{len(keys)} {what}: {list_keys(keys)}" for what, keys in kinds.items() if keys
    )


def list_keys(keys: Iterable[str]) -> str:
    """Return keys in order; those that differ in a number, as of layers, as one, counted."""
    alike: dict[str, list[str]] = {}
    for key in sorted(keys):
        alike.setdefault(re.sub(r"(?<=\.)\d+(?=\.)", "*", key), []).append(key)
    named = [
        f"{name[:200]} ({len(same)})" if len(same) > 1 else same[0][:200]
        for name, same in alike.items()
    ]
    more = [f"and {len(named) - NAMED_KEYS} more"] if len(named) > NAMED_KEYS else []
    return ", ".join(named[:NAMED_KEYS] + more)
