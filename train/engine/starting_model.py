"""The model that a run starts from: pretrained parts, new parts, or a saved VisualChat."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from vchat.model.adapters import adapt
from vchat.model.config import VisualChatConfig
from vchat.model.decoder_families import check_decoder
from vchat.model.end_ids import add_end_ids
from vchat.model.towers.hugging_face import read_traits, register_towers
from vchat.model.towers.open_clip import FOLDER_CONFIG, OpenClipVision, load_folder
from vchat.model.visual_chat import VisualChat
from vchat.shards.pixels.grid import ImageGrid, Tiling
from vchat.train.config.model import LoraConfig, ModelConfig, ModelSizes
from vchat.train.engine.pretrained import (
    first_line,
    load_pretrained,
    make_config,
    read_config,
    read_fields,
    read_stated_end_ids,
)
from vchat.train.engine.weight_loading import WHOLE, WeightLoading

FROZEN_FILE = r"\.\./\.\./frozen/[0-9a-f]{64}\.safetensors"
"""What the index of a checkpoint calls the frozen weights of its run, see `frozen_weights.py`."""

OTHER_HALF = r"^(text_model\.|(text|visual)_projection\.|logit_(scale|bias)$)"
UNREAD_OF_CLIP = OTHER_HALF + r"|(^|\.)post_layernorm\."
UNREAD_OF_SIGLIP = OTHER_HALF + r"|^(vision_model\.)?head\."
"""Keys of towers that nothing reads."""


def build_model(
    config: ModelConfig,
    *,
    image_token_id: int,
    num_ids: int,
    seed: int,
    loading: WeightLoading = WHOLE,
) -> VisualChat:
    """Make the model that a run starts from, on the CPU; equal seeds give equal weights.

    Only what may be large is loaded as `loading` says; a tower and new weights are whole, float32.

    Raises:
        ValueError: if a folder does not hold such a model, or a table does not describe one.
    """
    torch.manual_seed(seed)
    model = _build_without_adapters(
        config, image_token_id=image_token_id, num_ids=num_ids, loading=loading
    )
    if config.max_tiles:
        model.config.max_tiles = config.max_tiles
        model.config.check_tiles()
    if config.lora is not None:
        with loading.apply():  # some adapters are initialised from the weight of their layer
            add_adapters(model, config.lora)
    return model


def add_adapters(model: VisualChat, lora: LoraConfig) -> None:
    """Add the adapters of a run to its fresh model."""
    adapt(
        model,
        rank=lora.rank,
        alpha=2.0 * lora.rank if lora.alpha is None else lora.alpha,
        dropout=lora.dropout,
        dora=lora.dora,
        four_bit=lora.four_bit,
        decoder_targets=lora.targets,
        tower_targets=lora.tower_targets if lora.tower else None,
    )


def _build_without_adapters(
    config: ModelConfig, *, image_token_id: int, num_ids: int, loading: WeightLoading
) -> VisualChat:
    """Make the model without the adapters of `[model.lora]`."""
    if config.start_from is not None:
        return load_model(config.start_from, loading=loading)
    assert config.decoder is not None  # ModelConfig checks both
    assert config.tower is not None
    tower = load_tower(config.tower)
    decoder = load_decoder(config.decoder, num_ids=num_ids, loading=loading)
    with loading.apply():  # the embedding table may grow
        return VisualChat.from_parts(
            tower=tower,
            decoder=decoder,
            image_token_id=image_token_id,
            num_ids=num_ids,
            attention=config.attention,
            projection=config.projection,
            image_size=config.image_size,
            image_mean=channel_statistic(config.tower, "image_mean"),
            image_std=channel_statistic(config.tower, "image_std"),
        )


def load_model(folder: Path, *, loading: WeightLoading | None = WHOLE) -> VisualChat:
    """Load a VisualChat folder, or the model of a step folder.

    Args:
        folder: Of either kind.
        loading: None is whole, in the precision that it was saved in.

    Raises:
        ValueError: there is no such model, or not every weight of it; the message lists them.
    """
    inner = folder / "model"
    model_folder = inner if inner.is_dir() else folder
    config = read_model_config(model_folder)
    if _wants_only_sizes():
        return VisualChat(config)
    if loading is None:
        loading = WeightLoading(dtype=config.dtype or torch.float32)
    model = load_pretrained(VisualChat, model_folder, config, loading=loading, beside=FROZEN_FILE)
    assert isinstance(model, VisualChat)
    add_end_ids(model, read_stated_end_ids(model_folder))
    return model


def read_model_config(model_folder: Path) -> VisualChatConfig:
    """Return the configuration of a saved VisualChat; ValueError if there is none."""
    file = model_folder / "config.json"
    if not file.is_file():
        raise ValueError(f"{file}: no such file, wanted a saved VisualChat model")
    wanted = VisualChatConfig.model_type
    kind = read_fields(file).get("model_type")
    if kind != wanted:
        raise ValueError(f"{file}: a model of type {str(kind)[:80]!r}, wanted {wanted!r}")
    AutoConfig.register(wanted, VisualChatConfig, exist_ok=True)
    config = read_config(model_folder)
    assert isinstance(config, VisualChatConfig)
    try:
        read_traits(config.tower_config)
        check_decoder(config.decoder_config)
    except ValueError as err:
        raise ValueError(f"{file}: {err}") from err
    return config


def read_sizes(model: VisualChat) -> ModelSizes:
    """Return what the data must know of the model."""
    return ModelSizes(
        image_size=model.config.image_size,
        grid=read_grid(model),
    )


def read_grid(model: VisualChat) -> ImageGrid:
    """Return how many positions an image takes in the model's decoder."""
    config, tiling = model.config, None
    if config.max_tiles:
        tiling = Tiling(max_tiles=config.max_tiles, side=config.image_size)
    return ImageGrid(positions_per_input=config.positions_per_image, tiling=tiling)


def load_tower(source: str | dict[str, Any]) -> PreTrainedModel:
    """Load a vision tower from a folder of any known kind, or make a new one from a table.

    Raises:
        ValueError: if there is none, or its weights are of another model.
    """
    register_towers()
    if isinstance(source, dict):
        return _new_tower(source)
    folder = Path(source)
    if (folder / FOLDER_CONFIG).is_file() and not (folder / "config.json").is_file():
        return load_folder(folder)
    config = read_config(folder)
    config = getattr(config, "vision_config", config)  # of a model with both halves
    read_traits(config)
    kind = MODEL_MAPPING[type(config)]
    if _wants_only_sizes():
        return _new_module(kind, config, dtype=config.dtype)
    unread = UNREAD_OF_SIGLIP if config.model_type.startswith("siglip") else UNREAD_OF_CLIP
    return load_pretrained(kind, folder, config, unread=unread)


def _new_tower(table: dict[str, Any]) -> PreTrainedModel:
    """Make a tower from a table; one of open_clip may start from a file of weights."""
    fields = dict(table)
    weights = fields.pop("weights", None)
    config = make_config(fields, origin="model.tower")
    read_traits(config)
    tower = _new_module(MODEL_MAPPING[type(config)], config)
    if weights is not None:
        if not isinstance(tower, OpenClipVision):
            raise ValueError('model.tower.weights goes with model_type = "open_clip" only')
        if not _wants_only_sizes():
            tower.load_weights(Path(weights))
    return tower


def load_decoder(
    source: str | dict[str, Any], *, num_ids: int | None, loading: WeightLoading = WHOLE
) -> PreTrainedModel:
    """Load a causal language model from its folder, or make a new one of `num_ids` from a table.

    Raises:
        ValueError: it is not one whose attention can be replaced, or weights are missing.
    """
    if isinstance(source, dict):
        fields = source if num_ids is None else source | {"vocab_size": num_ids}
        config = make_config(fields, origin="model.decoder")
        check_decoder(config)
        return _new_module(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config)
    folder = Path(source)
    config = read_config(folder)
    try:
        check_decoder(config)
    except ValueError as err:
        raise ValueError(f"{folder}: {err}") from err
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if _wants_only_sizes():
        return _new_module(kind, config, dtype=config.dtype)
    decoder = load_pretrained(kind, folder, config, loading=loading)
    add_end_ids(decoder, read_stated_end_ids(folder))
    return decoder


def _new_module(
    kind: Any, config: PreTrainedConfig, *, dtype: torch.dtype | str | None = torch.float32
) -> PreTrainedModel:
    """Make a module with random weights."""
    try:
        module: PreTrainedModel = kind._from_config(config, dtype=dtype)
    except Exception as err:  # the library raises whatever odd sizes lead to
        raise ValueError(f"no {kind.__name__} can be made: {first_line(err)}") from err
    return module


def _wants_only_sizes() -> bool:
    """Tell whether tensors are made without memory, so that no weight is wanted."""
    return torch.get_default_device().type == "meta"


def channel_statistic(tower: str | dict[str, Any], name: str) -> list[float] | None:
    """Return a mean or standard deviation per channel, None if the tower's folder has none."""
    if isinstance(tower, dict):
        return None
    file = Path(tower) / "preprocessor_config.json"
    values = read_fields(file).get(name) if file.is_file() else None
    if values is None:
        return None
    if not isinstance(values, list) or len(values) != 3 or not all(map(_is_number, values)):
        raise ValueError(f"{file}: {name} is {str(values)[:80]}, wanted three numbers")
    return [float(value) for value in values]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
