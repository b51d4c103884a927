"""Towers: what they give, what they drop, which they accept."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTModel,
)
from vchat.model.towers import HuggingFaceTower
from vchat.model.visual_chat import VisualChat

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
VISION = {**SIZES, "image_size": 16, "patch_size": 8}
SLOT = 50


def clip():
    return CLIPVisionModel(CLIPVisionConfig(**VISION))


def whole_clip():
    text = {**SIZES, "vocab_size": 10, "max_position_embeddings": 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=VISION))


def siglip():
    return SiglipVisionModel(SiglipVisionConfig(**VISION))


def whole_siglip():
    text = {**SIZES, "vocab_size": 10, "max_position_embeddings": 8}
    return SiglipModel(SiglipConfig(text_config=text, vision_config=VISION))


def with_tower(tower, **settings):
    torch.manual_seed(0)
    decoder = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, vocab_size=SLOT))
    return VisualChat.from_parts(
        tower=tower, decoder=decoder, image_token_id=SLOT, num_ids=SLOT + 1, **settings
    ).eval()


def tower_of(model, image_size=16):
    return HuggingFaceTower(
        model, image_size=image_size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    ).eval()


def test_clip_gives_its_last_layer_with_the_class_position():
    torch.manual_seed(0)
    model = clip().eval()
    pixels = torch.randn(2, 3, 16, 16)
    expected = model(pixels).last_hidden_state
    tower = tower_of(model)
    assert (tower.positions, tower.width, tower.has_class_position) == (5, 32, True)
    torch.testing.assert_close(tower(pixels), expected)


def test_siglip_gives_its_normalised_output_without_a_class_position():
    torch.manual_seed(0)
    model = siglip().eval()
    pixels = torch.randn(2, 3, 16, 16)
    expected = model(pixels).last_hidden_state
    tower = tower_of(model)
    assert (tower.positions, tower.width, tower.has_class_position) == (4, 32, False)
    torch.testing.assert_close(tower(pixels), expected)


@pytest.mark.parametrize("make", [clip, whole_clip, siglip, whole_siglip])
@pytest.mark.parametrize("image_size", [None, 24])
def test_every_tower_trains_generates_and_is_saved(tmp_path, make, image_size):
    model = with_tower(make(), image_size=image_size)
    side, positions = model.config.image_size, model.config.positions_per_image
    ids = torch.tensor([[1, *[SLOT] * positions, 2, 3]])
    pixels = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8)
    model(ids, pixels, labels=torch.where(ids == 3, 3, -100)).loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    model.save_pretrained(tmp_path)
    loaded = VisualChat.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(ids, pixels).logits, model(ids, pixels).logits)


def test_the_size_of_the_images_sets_the_number_of_positions():
    assert with_tower(clip()).config.positions_per_image == 1 + 2 * 2
    assert with_tower(clip(), image_size=24).config.positions_per_image == 1 + 3 * 3
    assert with_tower(siglip(), image_size=24).config.positions_per_image == 3 * 3


def test_siglip_is_normalised_around_grey_unless_told_otherwise():
    assert with_tower(siglip()).config.image_mean == (0.5, 0.5, 0.5)
    assert with_tower(siglip(), image_mean=(0.1, 0.2, 0.3)).config.image_mean == (0.1, 0.2, 0.3)


def test_a_tower_of_another_make_is_an_error():
    with pytest.raises(ValueError, match=r"one of clip_vision_model, .* this one is 'vit'"):
        with_tower(ViTModel(ViTConfig(**VISION)))
