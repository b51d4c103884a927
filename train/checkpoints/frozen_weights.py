"""The frozen weights of a run: written once, named by their digest, referenced by checkpoints.

    OUT/frozen/<sha256>.safetensors                 weights that are not trained, and buffers
    OUT/step-000100/model/trained.safetensors       the trained ones
                         model.safetensors.index.json   name -> one of the two files

The index is the one transformers reads for weights in several files, so a checkpoint still loads
by `VisualChat.from_pretrained`, as long as `OUT/frozen` stands beside it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import deepspeed
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file

from vchat.base.files import inherit_permissions, sha256_file
from vchat.train.checkpoints.step_folder import find_newest, write_json
from vchat.train.engine.engine import gather_weights

FROZEN_FOLDER = "frozen"
TRAINED_FILE = "trained.safetensors"
INDEX_FILE = "model.safetensors.index.json"


def store_frozen_weights(engine: deepspeed.DeepSpeedEngine, out: Path) -> Path | None:
    """Return the file in `out/frozen` with all weights that are not trained; all ranks call it.

    The file is written if no checkpoint in `out` refers to one yet: a run's frozen weights never
    change. None if all parameters are trained.
    """
    if all(parameter.requires_grad for parameter in engine.module.parameters()):
        return None
    found = [_find_reference(out) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(found, src=0)
    if found[0] is not None:
        return out / FROZEN_FOLDER / found[0]
    weights = gather_weights(engine, is_trained=False)
    if dist.get_rank() == 0:
        found = [_write_frozen(weights, out / FROZEN_FOLDER)]
    dist.broadcast_object_list(found, src=0)
    return out / FROZEN_FOLDER / str(found[0])


def save_trained(
    engine: deepspeed.DeepSpeedEngine, folder: Path, *, weights: dict[str, Any], frozen: Path
) -> None:
    """Write a model folder that holds the trained weights and refers to the others. One process."""
    engine.module.save_pretrained(folder, state_dict=weights, max_shard_size="1000TB")
    (folder / "model.safetensors").rename(folder / TRAINED_FILE)
    with safe_open(folder / TRAINED_FILE, "pt") as file:
        files = dict.fromkeys(file.keys(), TRAINED_FILE)
    with safe_open(frozen, "pt") as file:
        files |= dict.fromkeys(file.keys(), f"../../{FROZEN_FOLDER}/{frozen.name}")
    write_json(folder / INDEX_FILE, {"metadata": {}, "weight_map": files})


def describe_frozen_file(frozen: Path) -> dict[str, dict[str, Any]]:
    """Return what `files.json` of a step folder says about the file it refers to."""
    facts = {"size_bytes": frozen.stat().st_size, "sha256": frozen.stem}
    return {f"../{FROZEN_FOLDER}/{frozen.name}": facts}


def _find_reference(out: Path) -> str | None:
    """Return the name of the file that the newest checkpoint refers to, None if there is none."""
    newest = find_newest(out)
    if newest is None or not (newest / "model" / INDEX_FILE).is_file():
        return None
    index = json.loads((newest / "model" / INDEX_FILE).read_text(encoding="utf-8"))
    names = {Path(file).name for file in index["weight_map"].values()} - {TRAINED_FILE}
    return names.pop() if names else None


def _write_frozen(weights: dict[str, Any], folder: Path) -> str:
    """Write weights to a file named by its digest, atomically; return the name."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / ".part"
    save_file({name: value.contiguous() for name, value in weights.items()}, part, {"format": "pt"})
    inherit_permissions(part)
    name = f"{sha256_file(part)}.safetensors"
    part.rename(folder / name)
    return name
