"""ModelConfig, the tables `[model]` and `[model.lora]` of RUN.toml, and ModelSizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from vchat.shards.pixels.grid import ImageGrid


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """Adapters beside frozen linear layers: few weights are trained, saved and communicated."""

    rank: int
    """Inner width of an adapter."""

    alpha: float | None = None
    """An adapter's output is scaled by alpha / rank; none means twice the rank."""

    dropout: float = 0.0
    """Share of an adapter's inputs that are zeroed in training."""

    dora: bool = False
    """Rescale the adapted weights row by row too (DoRA): slightly slower, often slightly better."""

    four_bit: bool = False
    """Keep the decoder's frozen linear layers in 4 bits per weight (QLoRA; needs the extra
    `qlora`)."""

    targets: tuple[str, ...] = ()
    """Last parts of the names of the decoder's layers that get an adapter, such as `q_proj`; by
    default all linear layers but the head."""

    tower: bool = False
    """Adapt the tower's linear layers too."""

    tower_targets: tuple[str, ...] = ()
    """As `targets`, in the tower."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"lora.rank must be at least 1, got {self.rank}")
        if self.tower_targets and not self.tower:
            raise ValueError("lora.tower_targets needs lora.tower = true")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The parts of the model."""

    decoder: str | dict[str, Any] | None = None
    """Folder of a pretrained causal language model, or a table with `model_type` and the fields of
    that model's configuration: then it starts from random weights."""

    tower: str | dict[str, Any] | None = None
    """Folder of a pretrained vision tower, or a table as for `decoder`. A table with `model_type =
    "open_clip"` wants `name`, and starts from `weights`, a file of that model, if given."""

    image_size: int | None = None
    """Side in pixels of the square the tower reads, if not its own: positions are interpolated."""

    start_from: Path | None = None
    """A VisualChat folder or a checkpoint: all weights come from it, not from decoder and tower."""

    max_tiles: int = 0
    """Cut images that are larger than the tower's square into up to so many tiles, shown behind a
    small view of the whole, all in the slot of the image; 0 does not. Shards must hold larger
    images than the tower reads (`vchat-prep build --image-size`), and `images_per_row` counts
    tiles."""

    projection: Literal["baseline", "vit", "perceiver"] = "baseline"
    """What turns tower features into decoder inputs: a linear map and a norm, the same behind one
    more layer of the tower's kind, or 256 queries that gather each image."""

    attention: Literal["mmca", "causal"] = "mmca"
    """Multi-modal causal attention, or the decoder's own."""

    lora: LoraConfig | None = None
    """Adapters that are trained instead of the weights that they adapt."""

    def __post_init__(self) -> None:
        given = (self.decoder is not None, self.tower is not None)
        wanted = (False, False) if self.start_from is not None else (True, True)
        if given != wanted:
            raise ValueError("give decoder and tower, or start_from alone")
        if self.max_tiles == 1 or self.max_tiles < 0:
            raise ValueError(f"max_tiles must be 0 or at least 2, got {self.max_tiles}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSizes:
    """What data and model must agree on."""

    image_size: int
    """Side of the square the tower reads, in pixels."""

    grid: ImageGrid
    """How many positions of the decoder an image takes."""
