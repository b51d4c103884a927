"""The vision half of any model of `open_clip`, by its name there, as a transformers model.

Everything behind the features is dropped (a final norm of the class position, pooling, the
projection into the space shared with text), because nothing here reads it. A CLIP transformer gives
its last layer's output with the class position, as the Hugging Face CLIP tower does; a timm network
gives what its `forward_features` gives; a feature map is read row by row.

The library takes seconds to import, so it is imported when a tower is built.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from vchat.base.nearest import nearest
from vchat.model.towers.weight_files import compare_weights

PREFIX = "visual."
"""What the keys of the vision half begin with, in open_clip's checkpoints and in ours."""

FOLDER_CONFIG = "open_clip_config.json"
FOLDER_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""What a folder published for open_clip holds."""


class OpenClipVisionConfig(PreTrainedConfig):  # type: ignore[misc]
    """Give `name`; all else follows, and is saved so that a loaded tower looks nothing up."""

    model_type = "open_clip"

    name: str = ""
    """As open_clip lists it, such as `ViT-bigG-14`."""

    pretrained: str = ""
    """open_clip's tag of the weights, such as `openai`: it says how their images are normalised.
    Nothing is downloaded."""

    embed_dim: int = 0
    """Width of the space shared with text."""

    vision_cfg: dict[str, Any] | None = None
    """The vision half in open_clip's terms."""

    quick_gelu: bool = False
    """Whether the weights were trained with the approximate activation of the first CLIP."""

    image_size: int = 0
    """Side of the square input, in pixels; the model's own if not given."""

    image_mean: list[float] | tuple[float, ...] | None = None
    """Per channel, of pixel values between 0 and 1."""

    image_std: list[float] | tuple[float, ...] | None = None
    """As the field before."""

    hidden_size: int = 0
    """Width of a feature."""

    num_positions: int = 0
    """Features of an image of `image_size`."""

    has_class_position: bool = False
    """Whether the first feature stands for the whole image."""

    num_attention_heads: int = 0
    """Of the extra layer of a `vit` projection, as the following fields: about the tower's own."""

    intermediate_size: int = 0
    """As the field before."""

    hidden_act: str = "gelu"
    """As the field before."""

    layer_norm_eps: float = 1e-5
    """As the field before."""

    def __post_init__(self, **kwargs: object) -> None:
        """Look up what follows from the name.

        Raises:
            ValueError: open_clip has no model of that name, or no weights of that tag.
        """
        super().__post_init__(**kwargs)
        if self.name and self.vision_cfg is None:
            self._copy_settings(look_up_model(self.name))
        if self.vision_cfg is not None and self.image_mean is None:
            self.image_mean, self.image_std = normalisation(self.name, self.pretrained)
        if self.vision_cfg is not None and not self.num_positions:
            self.measure()

    def _copy_settings(self, model: dict[str, Any]) -> None:
        """Copy what open_clip says about the vision half of a model."""
        from open_clip import get_pretrained_cfg

        settings = {**model["vision_cfg"], "timm_model_pretrained": False, "patch_dropout": 0.0}
        self.embed_dim, self.vision_cfg = int(model["embed_dim"]), settings
        of_weights = get_pretrained_cfg(self.name, self.pretrained) if self.pretrained else {}
        self.quick_gelu = bool(of_weights.get("quick_gelu") or model.get("quick_gelu"))
        self.image_size = self.image_size or int(settings.get("image_size", 224))

    def measure(self) -> None:
        """Set number and width of the features, found by a network without memory for weights."""
        assert self.vision_cfg is not None
        with torch.device("meta"):
            visual = build_network(self).eval()
            features = compute_features(visual, torch.zeros(1, 3, self.image_size, self.image_size))
        self.num_positions, self.hidden_size = int(features.shape[1]), int(features.shape[2])
        trunk = getattr(visual, "trunk", None)
        num_prefix = int(hasattr(visual, "class_embedding")) + getattr(
            trunk, "num_prefix_tokens", 0
        )
        self.has_class_position = num_prefix > 0
        self.num_attention_heads = self.hidden_size // int(self.vision_cfg.get("head_width", 64))
        self.intermediate_size = int(self.hidden_size * float(self.vision_cfg.get("mlp_ratio", 4)))
        self.hidden_act = "quick_gelu" if self.quick_gelu else "gelu"


class OpenClipVision(PreTrainedModel):  # type: ignore[misc]
    """A vision half of open_clip: pixels [N, 3, H, W] to features [N, positions, width]."""

    config_class = OpenClipVisionConfig
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True

    def __init__(self, config: OpenClipVisionConfig) -> None:
        """Build it with the fresh weights that open_clip gives it."""
        super().__init__(config)
        self.gradient_checkpointing = False
        self.visual = build_network(config)
        for module in self.modules():
            module._is_hf_initialized = True  # what the library sets on loaded weights
        self.post_init()

    def train(self, mode: bool = True) -> OpenClipVision:
        """Switch as usual, but batch norms keep to the statistics they were trained to.

        In training, the features of an image would otherwise depend on the others of its batch.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, pixel_values: Tensor) -> BaseModelOutput:
        """Map normalised float[N, 3, H, W] to `last_hidden_state`, float[N, positions, width]."""
        switch: Any = getattr(self.visual, "set_grad_checkpointing", None)
        if switch is not None:
            switch(self.gradient_checkpointing and self.training)
        return BaseModelOutput(last_hidden_state=compute_features(self.visual, pixel_values))

    def load_weights(self, file: Path) -> None:
        """Load the vision half of an open_clip checkpoint: safetensors, or a file of torch.

        A table of positions for another image size is interpolated. The text half is not read.

        Raises:
            ValueError: a weight is missing, surplus, or of another shape.
        """
        weights = {
            key.removeprefix(PREFIX): value
            for key, value in _read_checkpoint(file).items()
            if key.startswith(PREFIX)
        }
        with torch.device("meta"):
            behind = build_network(self.config, native=True, whole=True).state_dict().keys()
        native = build_network(self.config, native=True)
        wanted = native.state_dict()
        weights = {k: v for k, v in weights.items() if k in wanted or k not in behind}
        problems = compare_weights(weights, wanted)
        if problems:
            raise ValueError(f"{file}: not the weights of {self.config.name}: {problems}")
        native.load_state_dict(weights)
        set_image_size(native, self.config.image_size)
        self.visual.load_state_dict(native.state_dict())

    def set_image_size(self, image_size: int) -> None:
        """Change the size of the images that are read; positions are interpolated."""
        set_image_size(self.visual, image_size)
        self.config.image_size = image_size
        self.config.measure()


def _read_checkpoint(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint of open_clip; ValueError if it holds none."""
    from open_clip.factory import load_state_dict

    try:
        weights: dict[str, Tensor] = load_state_dict(str(file), weights_only=True)
        is_whole = all(isinstance(value, Tensor) for value in weights.values())
    except Exception as err:  # torch and safetensors raise whatever a damaged file leads to
        what = str(err).strip().splitlines() or [type(err).__name__]
        raise ValueError(f"{file}: not a file of weights: {what[0][:300]}") from err
    if not is_whole:
        raise ValueError(f"{file}: not a file of weights: it holds something else than tensors")
    return weights


def load_folder(folder: Path) -> OpenClipVision:
    """Load a folder as published for open_clip: `open_clip_config.json` beside the weights.

    Where tensors have no memory (the meta device), the weights are not read.

    Raises:
        ValueError: the weights are missing or of another model.
    """
    config = read_folder_config(folder)
    if torch.get_default_device().type == "meta":
        return OpenClipVision(config)
    files = [folder / name for name in FOLDER_WEIGHTS if (folder / name).is_file()]
    if not files:
        raise ValueError(f"{folder}: want {' or '.join(FOLDER_WEIGHTS)} beside {FOLDER_CONFIG}")
    tower = OpenClipVision(config)
    tower.load_weights(files[0])
    return tower


def read_folder_config(folder: Path) -> OpenClipVisionConfig:
    """Return what a folder published for open_clip says of its vision half.

    Raises:
        ValueError: it describes none.
    """
    file = folder / FOLDER_CONFIG
    config = OpenClipVisionConfig()
    config.name = folder.name
    try:
        described = json.loads(file.read_text(encoding="utf-8"))
        config._copy_settings(described["model_cfg"])
        preprocess = described.get("preprocess_cfg", {})
        config.image_mean, config.image_std = normalisation("", "")
        config.image_mean = preprocess.get("mean", config.image_mean)
        config.image_std = preprocess.get("std", config.image_std)
        config.measure()
    except Exception as err:  # the library raises whatever odd values lead to
        what = str(err).strip().splitlines() or [type(err).__name__]
        raise ValueError(f"{file}: not the configuration of a tower: {what[0][:300]}") from err
    return config


def look_up_model(name: str) -> dict[str, Any]:
    """Return open_clip's description of a model; ValueError names the nearest known ones."""
    import open_clip

    model: dict[str, Any] | None = open_clip.get_model_config(name)
    if model is None:
        similar = nearest(name, open_clip.list_models(), most=3)
        hint = f"; the nearest are {', '.join(similar)}" if similar else ""
        raise ValueError(f"open_clip has no model {name!r}{hint}")
    return model


def normalisation(name: str, pretrained: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel that the weights were trained with.

    Without a tag, those that all weights of the name share, else CLIP's.

    Raises:
        ValueError: open_clip lists no such tag for the name.
    """
    import open_clip

    usual = (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained and pretrained not in tags:
        known = ", ".join(tags) or "none"
        raise ValueError(f"open_clip lists no weights {pretrained!r} of {name}; known: {known}")
    listed = [open_clip.get_pretrained_cfg(name, tag) for tag in tags if pretrained in ("", tag)]
    found = {(tuple(c.get("mean", usual[0])), tuple(c.get("std", usual[1]))) for c in listed}
    return found.pop() if len(found) == 1 else usual


def build_network(
    config: OpenClipVisionConfig, *, native: bool = False, whole: bool = False
) -> nn.Module:
    """Return open_clip's network with fresh weights.

    Args:
        native: for images of the size the model was made for, whatever `image_size` is.
        whole: with what stands behind the features.
    """
    from open_clip.model import _build_vision_tower

    assert config.vision_cfg is not None
    settings = {**config.vision_cfg, "timm_model_pretrained": False}  # else it would be fetched
    network = settings.get("timm_model_name") or ""
    if not re.fullmatch(r"[\w.]*", network):
        raise ValueError(f"timm_model_name is {network[:80]!r}, wanted a name that timm lists")
    visual: nn.Module = _build_vision_tower(config.embed_dim, settings, config.quick_gelu)
    if not whole:
        drop_unread_parameters(visual)
    if not native:
        set_image_size(visual, config.image_size)
    return visual


def drop_unread_parameters(visual: nn.Module) -> None:
    """Remove all parameters that stand behind the features."""
    trunk: Any = getattr(visual, "trunk", None)
    if trunk is not None:
        visual.head = nn.Identity()
        for name in ("head", "fc_norm", "attn_pool", "head_drop"):
            if getattr(trunk, name, None) is not None:
                setattr(trunk, name, nn.Identity())
        return
    for name in ("ln_post", "proj", "attn_pool", "attn_pool_contrastive", "attnpool"):
        if hasattr(visual, name):
            setattr(visual, name, None)


def set_image_size(visual: Any, image_size: int) -> None:
    """Make a network read square images of this side; its table of positions is interpolated."""
    from open_clip.model import resize_pos_embed

    if visual.image_size in (image_size, (image_size, image_size)):
        return
    if hasattr(visual, "trunk"):
        visual.set_input_size(image_size)
        return
    visual.image_size = (image_size, image_size)
    if hasattr(visual, "positional_embedding"):
        visual.grid_size = tuple(image_size // side for side in visual.patch_size)
        key = f"{PREFIX}positional_embedding"
        table = {key: visual.positional_embedding.detach()}
        resize_pos_embed(table, SimpleNamespace(visual=visual))
        visual.positional_embedding = nn.Parameter(
            table[key], requires_grad=visual.positional_embedding.requires_grad
        )


def compute_features(visual: Any, pixels: Tensor) -> Tensor:
    """Map normalised float[N, 3, H, W] to float[N, positions, width]."""
    trunk = getattr(visual, "trunk", None)
    if trunk is not None:
        features: Tensor = trunk.forward_features(pixels)
        if features.ndim == 4 and getattr(trunk, "output_fmt", "NCHW") == "NHWC":
            return features.flatten(1, 2)
    elif hasattr(visual, "class_embedding"):
        features = visual.transformer(visual._embeds(pixels))
    else:
        features = visual.stem(pixels)
        for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            features = layer(features)
    return features.flatten(2).mT if features.ndim == 4 else features
