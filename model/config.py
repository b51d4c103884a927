"""What one VisualChat model is made of, as saved in its `config.json`.

The decoder's and the tower's own configurations are kept whole, so that `from_pretrained` needs
nothing beside the model folder.
"""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from vchat.model.foreign_config import drop_code_fields
from vchat.model.towers.hugging_face import CLIP_MEAN, CLIP_STD, register_towers

ATTENTIONS = ("mmca", "mmca_published", "causal")
PROJECTIONS = ("baseline", "vit", "perceiver")
IMAGE_ORDERS = ("in_order", "reversed")


class VisualChatConfig(PreTrainedConfig):  # type: ignore[misc]
    """Tower, projection, decoder and attention of one model."""

    model_type = "visual_chat"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "decoder_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
        "tower_config": SubConfigSpec(config_class=AutoConfig, model_type="clip_vision_model"),
    }

    decoder_config: PreTrainedConfig | None = None
    """The language model's configuration."""

    tower_config: PreTrainedConfig | None = None
    """The vision tower's configuration."""

    projection: str = "baseline"
    """What maps image features to the decoder's width: one of `PROJECTIONS`."""

    attention: str = "mmca"
    """Who attends to whom: one of `ATTENTIONS`, see `attention.py`."""

    image_token_id: int = 0
    """The id of an image slot. Each image takes `positions_per_image` of them in `input_ids`."""

    image_size: int = 224
    """Side of the square the tower reads, in pixels."""

    image_mean: list[float] | tuple[float, ...] = CLIP_MEAN
    """Per channel, of pixel values between 0 and 1; CLIP's unless stated otherwise."""

    image_std: list[float] | tuple[float, ...] = CLIP_STD
    """Per channel, of pixel values between 0 and 1; CLIP's unless stated otherwise."""

    positions_per_image: int = 257
    """How many positions of a decoder row one image takes, or one tile of an image."""

    max_tiles: int = 0
    """The most tiles an image is cut into; 0: images are not cut. See `shards/pixels/grid.py`."""

    image_order: str = "in_order"
    """Which slots the images of a dialogue fill: one of `IMAGE_ORDERS`. The published code puts the
    first image into the last slot; only models that it trained want that."""

    prompt_table: bool = False
    """Whether prompts are read by an embedding table of their own, and the decoder's reads only
    what the model generates. The published code trains such models."""

    four_bit_decoder: bool = False
    """Whether the decoder's linear layers but its head hold 4-bit weights, see `four_bit.py`."""

    adapters: dict[str, Any] | None = None
    """Adapters on linear layers: what `adapters.add_adapters` takes, but for `decoder_targets` and
    `tower_targets` in place of `targets`; None leaves that part without. See `adapters.adapt`."""

    def __post_init__(self, **kwargs: object) -> None:
        """Fill in the parts' configurations and check the names.

        Raises:
            ValueError: an attention, a projection or an order that does not exist, or tiles in
                reversed order.
        """
        register_towers()
        if isinstance(self.decoder_config, dict):
            self.decoder_config = drop_code_fields(self.decoder_config)
        if isinstance(self.tower_config, dict):
            self.tower_config = drop_code_fields(self.tower_config)
        super().__post_init__(**drop_code_fields(kwargs))
        for what, name, known in (
            ("attention", self.attention, ATTENTIONS),
            ("projection", self.projection, PROJECTIONS),
            ("image_order", self.image_order, IMAGE_ORDERS),
        ):
            if name not in known:
                raise ValueError(f"{what} must be one of {', '.join(known)}; got {name!r}")
        self.check_tiles()

    def check_tiles(self) -> None:
        """Raise ValueError if images are cut whose order is reversed: tiles would be, too."""
        if self.max_tiles and self.image_order != "in_order":
            raise ValueError(
                f"max_tiles is {self.max_tiles} and image_order is {self.image_order!r}: a model "
                'that cuts images wants image_order = "in_order"'
            )

    @property
    def keeps_rounds(self) -> bool:
        """Whether the cache of a dialogue stays valid when a round is added to it.

        Not in models of the published code: a new image changes what stands before it, and answers
        are read by another table once they are part of a prompt.
        """
        changes = self.attention == "mmca_published" or self.image_order == "reversed"
        return not (changes or self.prompt_table)

    def get_text_config(
        self, decoder: bool | None = None, encoder: bool | None = None
    ) -> PreTrainedConfig:
        """Return the decoder's configuration, which generation reads its settings from."""
        return self.decoder_config
