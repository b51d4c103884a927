"""The model that a run starts from: pretrained parts, new parts, or a saved VisualChat."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from vchat.model.adapters import adapt
from vchat.model.config import VisualChatConfig
from vchat.model.towers.hugging_face import register_towers
from vchat.model.towers.open_clip import FOLDER_CONFIG, OpenClipVision, load_folder
from vchat.model.visual_chat import VisualChat
from vchat.shards.pixels.grid import ImageGrid, Tiling
from vchat.train.config.model import LoraConfig, ModelConfig, ModelSizes
from vchat.train.engine.weight_loading import WHOLE, WeightLoading


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


def load_model(folder: Path, *, loading: WeightLoading = WHOLE) -> VisualChat:
    """Load a VisualChat folder, or the model of a step folder."""
    inner = folder / "model"
    model_folder = inner if inner.is_dir() else folder
    if not (model_folder / "config.json").is_file():
        raise ValueError(f"{folder}: no model there (config.json is missing)")
    if torch.get_default_device().type == "meta":  # only sizes are wanted
        return VisualChat(VisualChatConfig.from_pretrained(model_folder))
    with loading.apply():
        model: VisualChat = VisualChat.from_pretrained(model_folder, dtype=loading.dtype)
    return model


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
        fields = dict(source)
        weights = fields.pop("weights", None)
        tower = _load_module(fields, transformers.AutoModel, num_ids=None)
        if weights is not None:
            if not isinstance(tower, OpenClipVision):
                raise ValueError('model.tower.weights goes with model_type = "open_clip" only')
            if torch.get_default_device().type != "meta":  # else only sizes are wanted
                tower.load_weights(Path(weights))
        return tower
    folder = Path(source)
    if (folder / FOLDER_CONFIG).is_file() and not (folder / "config.json").is_file():
        return load_folder(folder)
    return _load_module(source, transformers.AutoModel, num_ids=None)


def load_decoder(
    source: str | dict[str, Any], *, num_ids: int | None, loading: WeightLoading = WHOLE
) -> PreTrainedModel:
    """Load a causal language model from its folder, or make a new one of `num_ids` from a table."""
    return _load_module(source, transformers.AutoModelForCausalLM, num_ids=num_ids, loading=loading)


def _load_module(
    source: str | dict[str, Any], auto: Any, *, num_ids: int | None, loading: WeightLoading = WHOLE
) -> PreTrainedModel:
    """Load a pretrained module from its folder, or make one from a table of its configuration."""
    module: PreTrainedModel
    if isinstance(source, dict):
        module = auto.from_config(_config_from_table(source, num_ids=num_ids), dtype=torch.float32)
        return module
    folder = Path(source)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder}: want a folder of a pretrained model (config.json is missing)")
    config = transformers.AutoConfig.from_pretrained(folder)
    if auto is transformers.AutoModel:  # of a CLIP model with both halves, the vision half
        config = getattr(config, "vision_config", config)
    if torch.get_default_device().type == "meta":  # only sizes are wanted
        module = auto.from_config(config)
        return module
    with loading.apply():
        module = auto.from_pretrained(folder, config=config, dtype=loading.dtype)
    return module


def _config_from_table(table: dict[str, Any], *, num_ids: int | None) -> PreTrainedConfig:
    fields = dict(table)
    model_type = fields.pop("model_type", None)
    if model_type is None:
        raise ValueError(f"a model table wants model_type, found only {', '.join(sorted(table))}")
    if num_ids is not None:
        fields["vocab_size"] = num_ids
    config: PreTrainedConfig = transformers.AutoConfig.for_model(model_type, **fields)
    return config


def channel_statistic(tower: str | dict[str, Any], name: str) -> list[float] | None:
    """Return a mean or standard deviation per channel, None if the tower's folder has none."""
    if isinstance(tower, dict):
        return None
    file = Path(tower) / "preprocessor_config.json"
    if not file.is_file():
        return None
    values: list[float] | None = json.loads(file.read_text(encoding="utf-8")).get(name)
    return values
