"""A trained model with the tokenizer and template it was trained with.

In: a checkpoint. Out: prompts as ids, pictures as pixels, and the logits that follow. Chat and
evaluation share it, so that both prompt the model exactly as the shards do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import Tensor

from vchat.model.cached_layout import DialogueCache
from vchat.model.decoder_families import find_longest_dialogue
from vchat.model.end_ids import read_end_ids
from vchat.model.image_states import ImageStates
from vchat.model.visual_chat import VisualChat
from vchat.shards.loading.collate import repeat_slots
from vchat.shards.text.template import Part, Template
from vchat.shards.text.tokenizer import TextTokenizer
from vchat.train.chat.image_cache import ImageStateCache
from vchat.train.chat.pictures import count_inputs, decode_picture, decode_picture_tiles
from vchat.train.checkpoints.checkpoint import Checkpoint, open_checkpoint
from vchat.train.engine.starting_model import load_model, read_grid


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
        config = self.model.config.get_text_config()
        most = int(config.max_position_embeddings)
        return min(most, find_longest_dialogue(config) or most)

    @property
    def image_size(self) -> int:
        """The side of the square that the model sees, in pixels."""
        return int(self.model.config.image_size)

    def with_system(self, text: str) -> ChatModel:
        """Return the same model with another system text."""
        return replace(self, template=self.template.with_system(text))

    @property
    def end_id(self) -> int:
        """The id of the token that ends an answer in the template, as the model was trained."""
        return self.tokenizer.special_id(self.template.end)

    @property
    def end_ids(self) -> frozenset[int]:
        """All ids that end an answer."""
        return find_end_ids(self.model, self.tokenizer, self.template)

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


def find_end_ids(model: VisualChat, tokenizer: TextTokenizer, template: Template) -> frozenset[int]:
    """Return the ids that end an answer: those of the template, the tokenizer and the decoder.

    What the decoder states counts where the tokenizer has a special token of that id: a new decoder
    states its library's defaults, which may be ordinary text here.
    """
    stated = tokenizer.special_ids.intersection(read_end_ids(model))
    ends = frozenset({tokenizer.special_id(template.end), tokenizer.end_id, *stated})
    return ends - {tokenizer.image_id}


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
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model = load_model(checkpoint.model_folder, loading=None)
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


def _check_ids(model: VisualChat, tokenizer: TextTokenizer, *, folder: Path) -> None:
    """Check that the model was made for this tokenizer's ids; ValueError if not."""
    rows = model.get_output_embeddings().weight.shape[0]
    slot = model.config.image_token_id
    if slot != tokenizer.image_id or rows < tokenizer.num_ids:
        raise ValueError(
            f"{folder}: the model has {rows} ids and image slot {slot}, its tokenizer"
            f" {tokenizer.num_ids} and {tokenizer.image_id}: checkpoint of another model"
        )
