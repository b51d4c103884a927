"""A trained model with the tokenizer and template it was trained with.

In: a checkpoint. Out: prompts as ids, pictures as pixels, and the logits that follow. Chat and
evaluation share it, so that both prompt the model exactly as the shards do.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor

from vchat.model.cached_layout import DialogueCache
from vchat.model.image_states import ImageStates
from vchat.model.visual_chat import VisualChat
from vchat.shards.loading.collate import repeat_slots
from vchat.shards.text.template import Part, Template
from vchat.shards.text.tokenizer import TextTokenizer
from vchat.train.chat.image_cache import ImageStateCache
from vchat.train.chat.pictures import count_inputs, decode_picture, decode_picture_tiles
from vchat.train.checkpoints.checkpoint import Checkpoint, open_checkpoint
from vchat.train.engine.starting_model import read_grid


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatModel:
    """A model that answers questions."""

    model: VisualChat
    tokenizer: TextTokenizer
    template: Template
    stored_side: int | None = None
    """The shorter side that the shards' larger images were resized to, if known.

    Larger pictures are resized to it first."""

    image_cache: ImageStateCache = field(default_factory=ImageStateCache)
    """The decoder's states of the most recent images, of all dialogues."""

    @property
    def max_positions(self) -> int:
        """The most positions of a dialogue, including images and answers."""
        return int(self.model.config.get_text_config().max_position_embeddings)

    @property
    def image_size(self) -> int:
        """The side of the square that the model sees, in pixels."""
        return int(self.model.config.image_size)

    def with_system(self, text: str) -> ChatModel:
        """Return the same model with another system text."""
        return replace(self, template=self.template.with_system(text))

    @property
    def end_id(self) -> int:
        """The id of the token that ends an answer."""
        return self.tokenizer.special_id(self.template.end)

    def prompt_ids(self, parts: Sequence[Part], *, inputs: Sequence[int]) -> list[int]:
        """Encode parts as the shards do and repeat each slot for its image's positions.

        Args:
            parts: From the template.
            inputs: How many tower inputs each image takes: 1 if images are not cut into tiles.
        """
        encoded = self.tokenizer.encode(parts)
        positions = np.array(inputs, np.int64) * int(self.model.config.positions_per_image)
        ids, _ = repeat_slots(
            encoded.ids,
            encoded.supervised,
            image_id=self.tokenizer.image_id,
            positions=positions,
        )
        return [int(one) for one in ids]

    def extend(
        self, cache: DialogueCache | None, ids: Sequence[int], images: Sequence[Tensor]
    ) -> tuple[Tensor, DialogueCache]:
        """Feed one sequence of ids and the images of their slots, each from `decode_picture`.

        An image that is in `image_cache` costs no pass through tower and decoder.

        Returns:
            The logits that follow, float[1, V], and the cache: the given one, or a new one.
        """
        model = self.model
        fed = torch.tensor([list(ids)], device=model.device)
        if images and self.image_cache.max_bytes > 0 and model.reuses_images:
            known = [self._states(one) for image in images for one in tower_inputs(image)]
            return model.extend(cache, fed, images=known)
        pixels = (
            torch.cat([tower_inputs(one) for one in images]).to(model.device) if images else None
        )
        return model.extend(cache, fed, pixels)

    def _states(self, image: Tensor) -> ImageStates:
        num = int(self.model.config.positions_per_image)
        return self.image_cache.states(self.model, image, num_positions=num)

    def decode_picture(self, data: bytes) -> Tensor:
        """Decode the bytes of an image file.

        Returns:
            uint8[3, H, W], or uint8[inputs, 3, H, W] if the model's images are cut into tiles.

        Raises:
            ValueError: The bytes are not an image.
        """
        tiling = read_grid(self.model).tiling
        if tiling is None:
            return decode_picture(data, side=self.image_size, stored_side=self.stored_side)
        return decode_picture_tiles(data, tiling=tiling, stored_side=self.stored_side)

    def num_inputs(self, data: bytes) -> int:
        """Return how many tower inputs `decode_picture` makes of a file; reads its header only.

        Raises:
            ValueError: The bytes are not an image.
        """
        tiling = read_grid(self.model).tiling
        if tiling is None:
            return 1
        return count_inputs(data, tiling=tiling, stored_side=self.stored_side)


def tower_inputs(image: Tensor) -> Tensor:
    """Return an image as tower inputs, uint8[inputs, 3, H, W]."""
    return image if image.ndim == 4 else image[None]


def load_chat_model(
    path: Path, *, device: str | None = None, system: str | None = None
) -> tuple[ChatModel, Checkpoint]:
    """Load a checkpoint to ask it questions; return the model, and the checkpoint it came from.

    Args:
        path: A step folder, or a run's folder: then its newest checkpoint.
        device: By default a GPU if there is one.
        system: Another system text than the one the model was trained with.

    Raises:
        ValueError: There is no complete checkpoint of a VisualChat model; the message is one line.
    """
    torch_device = _device(device)
    checkpoint = open_checkpoint(path)
    tokenizer = checkpoint.tokenizer
    model = _load_weights(checkpoint.model_folder)
    _check_ids(model, tokenizer, folder=checkpoint.folder)
    chat_model = ChatModel(
        model=model.to(torch_device).eval(),
        tokenizer=tokenizer,
        template=checkpoint.template,
        stored_side=checkpoint.shards.get("stored_image_size"),
    )
    return chat_model if system is None else chat_model.with_system(system), checkpoint


def _device(name: str | None) -> torch.device:
    """Return the device of a name, or the best available; ValueError if it cannot be used."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as err:  # torch raises either, by what is missing
        reason = str(err).strip().splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used: {reason}") from err


def _load_weights(folder: Path) -> VisualChat:
    """Load a saved VisualChat; a weight that is not in the file is an error."""
    _check_kind(folder / "config.json")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        model, report = VisualChat.from_pretrained(folder, dtype="auto", output_loading_info=True)
    except (SafetensorError, RuntimeError) as err:
        reason = str(err).strip().splitlines()[0]
        raise ValueError(f"{folder}: the weights do not load: {reason}") from err
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[problem]:
            names = ", ".join(sorted(map(str, report[problem]))[:3])
            raise ValueError(
                f"{folder}: weights of another model: {len(report[problem])}"
                f" {problem.replace('_', ' ')}, such as {names}"
            )
    loaded: VisualChat = model
    return loaded


def _check_kind(config_file: Path) -> None:
    if not config_file.is_file():
        raise ValueError(f"{config_file}: no such file, wanted a saved VisualChat model")
    try:
        kind = json.loads(config_file.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as err:
        raise ValueError(f"{config_file}: not a model's configuration: {err}") from err
    if kind != VisualChat.config_class.model_type:
        wanted = VisualChat.config_class.model_type
        raise ValueError(f"{config_file}: a model of type {kind!r}, wanted {wanted!r}")


def _check_ids(model: VisualChat, tokenizer: TextTokenizer, *, folder: Path) -> None:
    """Check that the model was made for this tokenizer's ids; ValueError if not."""
    rows = model.get_output_embeddings().weight.shape[0]
    slot = model.config.image_token_id
    if slot != tokenizer.image_id or rows < tokenizer.num_ids:
        raise ValueError(
            f"{folder}: the model has {rows} ids and image slot {slot}, its tokenizer"
            f" {tokenizer.num_ids} and {tokenizer.image_id}: checkpoint of another model"
        )
