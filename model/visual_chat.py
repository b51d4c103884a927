"""VisualChat: tower, projection and decoder as one Hugging Face model.

In: token ids in which every image has taken `positions_per_image` slot ids, and pixels in the order
of the slots. Out: a summed loss, or logits, or generated ids. Labels, positions and caches all
count expanded positions, so one length holds everywhere.

B rows, S positions, N images, D decoder width, V rows of the output head.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.generation import LogitsProcessorList, SuppressTokensLogitsProcessor

from vchat.model.adapters import add_configured_adapters, merge_model, target_names
from vchat.model.attention import kinds_of
from vchat.model.blank_image import LabelledRows, add_blank_image
from vchat.model.cached_layout import DialogueCache
from vchat.model.config import VisualChatConfig
from vchat.model.decoders import fit_vocabulary, use_attention
from vchat.model.decoding import Decoding, FlatDecoding, Rows, read_segments
from vchat.model.four_bit import use_four_bits
from vchat.model.image_states import (
    ImageStates,
    KeyRotation,
    encode_image,
    extend_with_images,
    find_key_rotation,
)
from vchat.model.last_layer import can_skip_images, skip_images_in_last_layer
from vchat.model.loss import SummedCrossEntropy
from vchat.model.output import VisualChatOutput
from vchat.model.partitioning import pause_partitioning
from vchat.model.published.decoding import PublishedDecoding
from vchat.model.published.options import order_features
from vchat.model.splice import splice
from vchat.model.towers.hugging_face import (
    HuggingFaceTower,
    count_features,
    read_traits,
    vision_half,
)
from vchat.model.towers.projection import build_projection, positions_after


class VisualChat(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A language model that reads images among its text."""

    config_class = VisualChatConfig
    config: VisualChatConfig
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(
        self,
        config: VisualChatConfig,
        *,
        tower: PreTrainedModel | None = None,
        decoder: PreTrainedModel | None = None,
    ) -> None:
        """Put the parts together; a part that is not given is built with fresh weights.

        Raises:
            ValueError: a decoder whose attention cannot be replaced.
        """
        super().__init__(config)
        tower = tower or AutoModel.from_config(config.tower_config, trust_remote_code=False)
        self.tower = HuggingFaceTower(
            tower, image_size=config.image_size, mean=config.image_mean, std=config.image_std
        )
        self.decoder = decoder or AutoModelForCausalLM.from_config(
            config.decoder_config, trust_remote_code=False
        )
        self.projection = build_projection(
            config.projection,
            tower_config=config.tower_config,
            has_class_position=self.tower.has_class_position,
            decoder_width=self.get_input_embeddings().embedding_dim,
        )
        if config.prompt_table:
            table = self.decoder.get_input_embeddings()
            self.prompt_embeddings = nn.Embedding(table.num_embeddings, table.embedding_dim)
        self.summed_cross_entropy = SummedCrossEntropy()
        use_attention(self.decoder, config.attention)
        layers = self.decoder.get_decoder()
        self._skips_images = config.attention == "mmca" and can_skip_images(layers)
        if self._skips_images:
            skip_images_in_last_layer(layers)
        self.post_init()
        if config.four_bit_decoder:
            use_four_bits(self.decoder, target_names(self.decoder, ()), same_weights=False)
        if config.adapters is not None:
            with pause_partitioning():  # they are small, and some begin as their layer's weight is
                add_configured_adapters(self, config.adapters)

    def merge(self) -> None:
        """Make adapters and 4-bit weights plain weights: the model computes the same without."""
        merge_model(self)

    @classmethod
    def from_parts(
        cls,
        *,
        tower: PreTrainedModel,
        decoder: PreTrainedModel,
        image_token_id: int,
        num_ids: int,
        attention: str = "mmca",
        projection: str = "baseline",
        image_size: int | None = None,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
    ) -> VisualChat:
        """Join a vision tower and a causal language model with a fresh projection.

        Both keep their weights. The decoder's embedding table and head grow to `num_ids` rows; the
        added rows and the image slot's start at the mean of the others.

        Args:
            tower: a Hugging Face CLIP or SigLIP model, or the vision half of one.
            decoder: any causal language model whose attention goes through transformers' interface.
            image_token_id: the slot id, below `num_ids`.
            num_ids: how many ids the tokenizer has.
            image_size: side of the images, in pixels; if it is not the tower's own, its position
                embeddings are interpolated.
            image_mean, image_std: per channel; those usual for the tower if not given.
        """
        tower = vision_half(tower)
        fit_vocabulary(decoder, num_ids=num_ids, image_token_id=image_token_id)
        for part in (tower, decoder):
            for module in part.modules():
                module._is_hf_initialized = True  # what the library sets on loaded weights
        image_size = read_traits(tower.config).image_size if image_size is None else image_size
        if tower.config.model_type == "open_clip" and tower.config.image_size != image_size:
            tower.set_image_size(image_size)
        config = VisualChatConfig(
            decoder_config=decoder.config,
            tower_config=tower.config,
            projection=projection,
            attention=attention,
            image_token_id=image_token_id,
            image_size=image_size,
            image_mean=tuple(image_mean or read_traits(tower.config).mean),
            image_std=tuple(image_std or read_traits(tower.config).std),
            positions_per_image=positions_after(
                projection, tower_positions=count_features(tower.config, image_size=image_size)
            ),
        )
        return cls(config, tower=tower, decoder=decoder)

    def add_prompt_table(self) -> None:
        """Give prompts a table of their own, which starts as a copy of the decoder's."""
        self.config.prompt_table = True
        self.prompt_embeddings = copy.deepcopy(self.decoder.get_input_embeddings())

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the table that reads prompts, and unless `prompt_table` generated tokens too."""
        own = self.config.prompt_table and hasattr(self, "prompt_embeddings")
        table: nn.Embedding = self.prompt_embeddings if own else self.decoder.get_input_embeddings()
        return table

    def get_output_embeddings(self) -> nn.Linear:
        """Return the decoder's head."""
        head: nn.Linear = self.decoder.get_output_embeddings()
        return head

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        position_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: DialogueCache | None = None,
        use_cache: bool | None = None,
        inputs_embeds: Tensor | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
    ) -> VisualChatOutput:
        """Run a batch of rows.

        Args:
            input_ids: int64[B, S]; the slot id stands at every image position.
            pixel_values: [N, 3, H, W], uint8, or floats that are already normalised; images in the
                order of their slots, row by row. With labels and no image, a row with a blank
                image and no loss is added, see `blank_image.py`.
            position_ids: int64[B, S]; counted per segment if not given.
            segment_ids: int64[B, S], 0 for padding, else the dialogue of the row, each in one
                piece.
            attention_mask: [B, S] or [B, K], 0 for padding: one dialogue per row. Not with
                `segment_ids`.
            labels: int64[B, S], the id itself where it is supervised, -100 elsewhere; position t is
                predicted from t - 1.
            past_key_values: a cache that this model made; it is extended in place.
            use_cache: return a cache.
            inputs_embeds: float[B, S, D] in place of embedding ids and pixels.
            logits_to_keep: how many of the last positions get logits; 0 is all. Those of
                padding mean nothing.
            return_dict: what generation passes; the result is always a `VisualChatOutput`.

        Raises:
            ValueError: the number of image slots and of image features differ.
        """
        segments = read_segments(input_ids, segment_ids, attention_mask)
        cache = past_key_values
        if labels is not None:
            if use_cache or cache is not None:
                raise ValueError("labels and a cache do not go together")
            labelled = LabelledRows(
                input_ids=input_ids, labels=labels, segment_ids=segments, position_ids=position_ids
            )
            return self._compute_loss(labelled, pixel_values, inputs_embeds)
        if inputs_embeds is None:
            generated = cache is not None and cache.get_seq_length() > 0
            inputs_embeds = self.embed(
                input_ids, pixel_values, generated=generated, segments=segments
            )
        rows = self._rows(input_ids, inputs_embeds, segments, position_ids)
        if cache is None and use_cache:
            cache = DialogueCache()
        decoding = self._decoding
        hidden = decoding.decode_all(rows) if cache is None else decoding.decode_newest(rows, cache)
        logits = self.get_output_embeddings()(hidden[:, -logits_to_keep:])
        return VisualChatOutput(logits=logits, past_key_values=cache)

    def _compute_loss(
        self, batch: LabelledRows, pixel_values: Tensor | None, inputs_embeds: Tensor | None
    ) -> VisualChatOutput:
        """Return the loss of a batch with labels; arguments as for `forward`."""
        if inputs_embeds is None:
            if pixel_values is None or len(pixel_values) == 0:
                batch, pixel_values = add_blank_image(batch, self.config)
            inputs_embeds = self.embed(batch.input_ids, pixel_values, segments=batch.segment_ids)
        rows = self._rows(batch.input_ids, inputs_embeds, batch.segment_ids, batch.position_ids)
        found = self._decoding.decode_predictors(rows, batch.labels)
        losses = torch.empty(len(found.targets), dtype=torch.float32, device=rows.kinds.device)
        loss = self.summed_cross_entropy(
            found.hidden, self.get_output_embeddings(), found.targets, losses=losses
        )
        return VisualChatOutput(
            loss=loss, target_losses=losses, target_indices=found.target_indices
        )

    def _rows(
        self, input_ids: Tensor, embeddings: Tensor, segments: Tensor, position_ids: Tensor | None
    ) -> Rows:
        slots = input_ids == self.config.image_token_id
        return Rows(
            embeddings=embeddings,
            kinds=kinds_of(slots, segments, mixed=self.config.attention != "causal"),
            segments=segments,
            position_ids=position_ids,
        )

    @property
    def _decoding(self) -> Decoding:
        """How rows go through the decoder under this attention."""
        if self.config.attention == "mmca_published":
            return PublishedDecoding(self.decoder)
        return FlatDecoding(self.decoder, skips_images=self._skips_images)

    def embed(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None,
        *,
        generated: bool = False,
        segments: Tensor | None = None,
    ) -> Tensor:
        """Return float[B, S, D]: the embeddings of the ids, with image features at their slots.

        Args:
            generated: the ids extend a cache: the decoder's own table reads them.
            segments: int64[B, S], the dialogues; None is one to a row.
        """
        table = self.decoder.get_input_embeddings() if generated else self.get_input_embeddings()
        embeddings = table(input_ids)
        slots = input_ids == self.config.image_token_id
        if pixel_values is None or len(pixel_values) == 0:
            none = embeddings.new_zeros(0, self.config.positions_per_image, 1)
            return splice(embeddings, none, slots)
        features = self._features(pixel_values)
        segments = torch.ones_like(input_ids) if segments is None else segments
        features = order_features(features, slots, segments, image_order=self.config.image_order)
        return splice(embeddings, features, slots)

    @property
    def reuses_images(self) -> bool:
        """Whether the states of an image, once computed, are valid in any dialogue."""
        return self._key_rotation is not None

    @cached_property
    def _key_rotation(self) -> KeyRotation | None:
        fit = self.config.attention == "mmca" and self.config.keeps_rounds
        return find_key_rotation(self.decoder) if fit else None

    def compute_image_states(self, pixel_values: Tensor, *, num_positions: int) -> ImageStates:
        """Return what the decoder computes for one image, [n, 3, H, W], in any dialogue.

        Args:
            num_positions: how many positions the image takes in a row.
        """
        slots = torch.full((1, num_positions), self.config.image_token_id, device=self.device)
        with torch.no_grad():
            return encode_image(self.decoder, self.embed(slots, pixel_values))

    def extend(
        self,
        cache: DialogueCache | None,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        *,
        images: Sequence[ImageStates] | None = None,
    ) -> tuple[Tensor, DialogueCache]:
        """Extend a cache by ids int64[B, T] and the pixels of their slots, without gradients.

        Args:
            images: the states of the images of one row, by `compute_image_states`, in place of
                their pixels; only if `reuses_images`. The last id must be text.

        Returns:
            The logits of the last position, float[B, V], and the cache, which is the given one.
        """
        cache = DialogueCache() if cache is None else cache
        with torch.no_grad():
            if images is None:
                output = self(
                    input_ids, pixel_values, past_key_values=cache, use_cache=True, logits_to_keep=1
                )
                return output.logits[:, -1], cache
            assert self._key_rotation is not None
            slots = input_ids == self.config.image_token_id
            embeddings = self.get_input_embeddings()(input_ids)
            hidden = extend_with_images(
                self.decoder, self._key_rotation, embeddings, slots, cache, images
            )
            return self.get_output_embeddings()(hidden[:, -1]), cache

    def generate(  # type: ignore[override]
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        *,
        attention_mask: Tensor | None = None,
        logits_processor: LogitsProcessorList | None = None,
        **options: object,
    ) -> Tensor:
        """Continue int64[B, S] prompts, left-padded, with images in the order of their slots.

        The slot id is never generated. `options` are those of transformers' `generate`, which does
        the rest; it needs the cache, so `use_cache=False` is refused.

        Returns:
            int64[B, S + new], the prompts included, or what `return_dict_in_generate` asks for.
        """
        if options.get("use_cache") is False:
            raise ValueError("generate needs the cache: use_cache must not be False")
        suppressed = SuppressTokensLogitsProcessor(
            [self.config.image_token_id], device=input_ids.device
        )
        with torch.no_grad():
            embeddings = self.embed(input_ids, pixel_values)
        generated: Tensor = super().generate(
            inputs=input_ids,
            inputs_embeds=embeddings,
            attention_mask=torch.ones_like(input_ids) if attention_mask is None else attention_mask,
            logits_processor=LogitsProcessorList([suppressed, *(logits_processor or [])]),
            past_key_values=options.pop("past_key_values", None) or DialogueCache(),
            **options,
        )
        return generated

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, inputs_embeds: Tensor | None = None, **kwargs: object
    ) -> dict[str, object]:
        """Keep the ids beside the embeddings: they say which positions are images.

        (Generation looks at these parameter names before it passes on embeddings, and whatever
        else `forward` takes.)
        """
        inputs: dict[str, object] = super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, **kwargs
        )
        if inputs.get("input_ids") is None:
            inputs["input_ids"] = input_ids
        inputs.pop("position_ids", None)
        return inputs

    def _features(self, pixels: Tensor) -> Tensor:
        """Map [N, 3, H, W] to image vectors, float[N, P, D]."""
        features = self.tower(pixels)
        projected: Tensor = self.projection(features.to(next(self.projection.parameters()).dtype))
        return projected
