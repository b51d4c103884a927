"""Folders of pretrained models, by anybody: configurations that are checked, weights that all fit.

transformers is never given such a folder. From what lies there it might ask on the terminal whether
to run the folder's code (`auto_map`), fetch code for attention or quantised weights, follow an
adapter to another model, or read files elsewhere; and it replaces missing weights by random ones.
So the configuration is read here, without the fields that do any of that, and the names and shapes
of all weights are compared with the model's before one of them is loaded.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel

from vchat.model.foreign_config import drop_code_fields
from vchat.model.towers.weight_files import (
    describe_weights,
    find_weight_files,
    list_problems,
    open_weights,
)
from vchat.train.engine.weight_loading import WHOLE, WeightLoading

MAX_CONFIG_BYTES = 4 << 20
MAX_LAYERS = 1000
"""More would take minutes to build before anything else is found to be wrong."""

GENERATION = "generation_config.json"


def read_config(folder: Path) -> PreTrainedConfig:
    """Return the configuration of a folder.

    Raises:
        ValueError: there is none, it is not of a kind that transformers knows, or the folder holds
            something else than a whole model with plain weights.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(f"{folder}: want a folder of a pretrained model (config.json is missing)")
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"{folder}: holds an adapter (adapter_config.json), want a whole model: merge it first"
        )
    return make_config(read_fields(file), origin=str(file))


def read_fields(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file; ValueError names the file."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_CONFIG_BYTES + 1)
        if len(data) > MAX_CONFIG_BYTES:
            raise ValueError(f"more than {MAX_CONFIG_BYTES} bytes")
        fields = json.loads(data)
    except (OSError, ValueError, RecursionError) as err:
        raise ValueError(f"{file}: not a configuration in JSON: {first_line(err)}") from err
    if not isinstance(fields, dict):
        raise ValueError(f"{file}: want a JSON object, found {type(fields).__name__}")
    return fields


def make_config(fields: Mapping[str, Any], *, origin: str) -> PreTrainedConfig:
    """Return the configuration that fields describe; ValueError, which names `origin`, if none."""
    kind = fields.get("model_type")
    if not isinstance(kind, str):
        found = ", ".join(sorted(map(str, fields))[:10]) or "nothing"
        raise ValueError(f"{origin}: wants model_type, a string; found {found[:200]}")
    if kind not in CONFIG_MAPPING:
        hint = "; its own code (auto_map) is never run" if "auto_map" in fields else ""
        raise ValueError(
            f"{origin}: model_type is {kind[:80]!r}, which transformers {transformers.__version__}"
            f" does not know{hint}"
        )
    _check_fields(fields, origin=origin)
    plain = drop_code_fields({k: v for k, v in fields.items() if k != "model_type"})
    try:
        config: PreTrainedConfig = CONFIG_MAPPING[kind](**plain)
    except Exception as err:  # the library raises whatever odd values lead to
        raise ValueError(f"{origin}: not a configuration of {kind!r}: {first_line(err)}") from err
    return config


def _check_fields(fields: Mapping[str, Any], *, origin: str) -> None:
    """Raise ValueError if fields, at any depth, name quantised weights or too many layers."""
    for name, value in fields.items():
        if name == "quantization_config" and value is not None:
            raise ValueError(f"{origin}: quantised weights ({name}), want plain ones")
        if "layer" in name and isinstance(value, int) and value > MAX_LAYERS:
            raise ValueError(f"{origin}: {name[:80]} is {value:.10g}, want at most {MAX_LAYERS}")
        if isinstance(value, dict):
            _check_fields(value, origin=origin)


def load_pretrained(
    kind: type[PreTrainedModel],
    folder: Path,
    config: PreTrainedConfig,
    *,
    loading: WeightLoading = WHOLE,
    unread: str | None = None,
    beside: str | None = None,
) -> PreTrainedModel:
    """Return a model whose weights are those of a folder, all of them.

    Args:
        kind: The class of the model.
        folder: Where the weights lie.
        config: As `read_config` returns it.
        loading: Data type, and whether the weights are partitioned; all ranks call it together.
        unread: A pattern of keys that the folder may hold or lack, because nothing reads them.
        beside: A pattern of the files outside the folder that its index may name.

    Raises:
        ValueError: weights are missing, surplus or of another shape: the message lists them; or
            files are missing or damaged.
    """
    files = find_weight_files(folder, beside=beside)
    shapes = describe_weights(files)
    _compare(kind, config, shapes, folder=folder, unread=unread)
    is_partitioned = loading.partition_settings is not None
    with contextlib.ExitStack() as stack:
        if is_partitioned and torch.distributed.get_rank() > 0:
            weights = shapes  # rank 0 alone reads the values
        else:
            weights = open_weights(files, stack, lazily=not is_partitioned)
        stack.enter_context(loading.apply())
        stack.enter_context(silence_library())
        model: PreTrainedModel = kind.from_pretrained(
            None,
            config=config,
            state_dict=dict(weights),
            dtype=loading.dtype,
            trust_remote_code=False,
        )
    return model


def _compare(
    kind: type[PreTrainedModel],
    config: PreTrainedConfig,
    shapes: Mapping[str, torch.Tensor],
    *,
    folder: Path,
    unread: str | None,
) -> None:
    """Raise ValueError unless the weights, given without memory, are those of the model."""
    try:
        with silence_library(), torch.random.fork_rng(devices=[]):
            _, report = kind.from_pretrained(
                None,
                config=config,
                state_dict=dict(shapes),
                device_map={"": "meta"},
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                trust_remote_code=False,
            )
    except Exception as err:  # the library raises whatever odd sizes lead to
        raise ValueError(
            f"{folder}: its configuration and weights make no {kind.__name__}: {first_line(err)}"
        ) from err
    problems = list_problems(
        missing=[key for key in report["missing_keys"] if not _matches(unread, key)],
        unexpected=[key for key in report["unexpected_keys"] if not _matches(unread, key)],
        misshapen=report["mismatched_keys"],
    )
    if problems:
        raise ValueError(f"{folder}: weights of another model: {problems}")


def _matches(pattern: str | None, key: str) -> bool:
    return pattern is not None and re.search(pattern, key) is not None


def read_stated_end_ids(folder: Path) -> list[int]:
    """Return the ids that end a text as a folder's `generation_config.json` says, if it does."""
    file = folder / GENERATION
    found = read_fields(file).get("eos_token_id") if file.is_file() else None
    ids = found if isinstance(found, list) else [found]
    return [one for one in ids if isinstance(one, int) and not isinstance(one, bool)]


@contextlib.contextmanager
def silence_library() -> Iterator[None]:
    """Keep transformers from printing reports and progress bars in this context."""
    logging = transformers.utils.logging
    verbosity, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its kind if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
