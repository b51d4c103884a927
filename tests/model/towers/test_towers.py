"""Towers: what they give, what they drop, which they accept."""

import json

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTModel,
)

from vchat.model.towers.hugging_face import HuggingFaceTower
from vchat.model.towers.open_clip import OpenClipVision, OpenClipVisionConfig, load_folder
from vchat.model.towers.qwen_vl import QwenVLVisual, QwenVLVisualConfig
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


def siglip2():
    return Siglip2VisionModel(Siglip2VisionConfig(**SIZES, patch_size=8, num_patches=4))


def open_clip_of(**vision_cfg):
    """A tower of a small network of open_clip's, as if it were listed there."""
    config = OpenClipVisionConfig()
    config.name = "tiny"
    config._copy_settings({"embed_dim": 8, "vision_cfg": vision_cfg})
    config.image_mean, config.image_std = (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)
    config.measure()
    return OpenClipVision(config)


OPEN_CLIP_VISION = {"image_size": 16, "patch_size": 8, "width": 32, "layers": 2, "head_width": 8}
OPEN_CLIP_TEXT = {"context_length": 4, "vocab_size": 9, "width": 8, "heads": 2, "layers": 1}


def open_clip_vit():
    return open_clip_of(**OPEN_CLIP_VISION)


def open_clip_resnet():
    return open_clip_of(image_size=64, layers=[1, 1, 1, 1], width=8, head_width=8)


def qwen_vl():
    return QwenVLVisual(
        QwenVLVisualConfig(
            image_size=16,
            patch_size=8,
            num_table_positions=4,
            patch_width=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=40,
            num_queries=4,
            hidden_size=128,
        )
    )


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
    assert (tower.num_features, tower.width, tower.has_class_position) == (5, 32, True)
    torch.testing.assert_close(tower(pixels), expected)


def test_siglip_gives_its_normalised_output_without_a_class_position():
    torch.manual_seed(0)
    model = siglip().eval()
    pixels = torch.randn(2, 3, 16, 16)
    expected = model(pixels).last_hidden_state
    tower = tower_of(model)
    assert (tower.num_features, tower.width, tower.has_class_position) == (4, 32, False)
    torch.testing.assert_close(tower(pixels), expected)


MAKES = [clip, whole_clip, siglip, whole_siglip, siglip2, open_clip_vit, open_clip_resnet, qwen_vl]


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("image_size, projection", [(None, "baseline"), (32, "vit")])
def test_every_tower_trains_is_saved_and_loads_equal(tmp_path, make, image_size, projection):
    model = with_tower(make(), image_size=image_size, projection=projection)
    side, positions = model.config.image_size, model.config.positions_per_image
    ids = torch.tensor([[1, *[SLOT] * positions, 2, 3]])
    pixels = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8)
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.train()(ids, pixels, labels=torch.where(ids == 3, 3, -100)).loss.backward()
    model.eval()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    model.save_pretrained(tmp_path)
    loaded = VisualChat.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(ids, pixels).logits, model(ids, pixels).logits)


def test_the_size_of_the_images_sets_the_number_of_positions():
    assert with_tower(clip()).config.positions_per_image == 1 + 2 * 2
    assert with_tower(clip(), image_size=24).config.positions_per_image == 1 + 3 * 3
    assert with_tower(siglip(), image_size=24).config.positions_per_image == 3 * 3
    assert with_tower(open_clip_vit(), image_size=24).config.positions_per_image == 1 + 3 * 3
    assert with_tower(open_clip_resnet(), image_size=96).config.positions_per_image == 3 * 3
    assert with_tower(qwen_vl(), image_size=24).config.positions_per_image == 4


def test_siglip_is_normalised_around_grey_unless_told_otherwise():
    assert with_tower(siglip()).config.image_mean == (0.5, 0.5, 0.5)
    assert with_tower(siglip(), image_mean=(0.1, 0.2, 0.3)).config.image_mean == (0.1, 0.2, 0.3)


def test_siglip_2_gives_its_normalised_output_for_images_of_any_size():
    torch.manual_seed(0)
    model = siglip2().eval()
    for side in (16, 24):
        pixels = torch.randn(2, 3, side, side)
        rows = [
            pixels[:, :, y : y + 8, x : x + 8].permute(0, 2, 3, 1).flatten(1)
            for y in range(0, side, 8)
            for x in range(0, side, 8)
        ]
        expected = model(
            torch.stack(rows, dim=1),
            torch.ones(2, len(rows), dtype=torch.int64),
            torch.tensor([[side // 8, side // 8]] * 2),
        ).last_hidden_state
        tower = tower_of(siglip2(), image_size=side)
        tower.model.load_state_dict(model.state_dict(), strict=False)
        assert tower.num_features == (side // 8) ** 2
        torch.testing.assert_close(tower(pixels), expected)


def test_an_open_clip_tower_takes_the_vision_half_of_its_checkpoint(tmp_path):
    """The features are what open_clip's own model has in front of its final norm."""
    import open_clip
    from open_clip.model import CLIP

    torch.manual_seed(0)
    whole = CLIP(8, OPEN_CLIP_VISION, OPEN_CLIP_TEXT).eval()
    torch.save(whole.state_dict(), tmp_path / "tiny.bin")
    seen = []
    whole.visual.ln_post.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    pixels = torch.randn(2, 3, 16, 16)
    whole.encode_image(pixels)

    tower = open_clip_vit().eval()
    tower.load_weights(tmp_path / "tiny.bin")
    torch.testing.assert_close(tower(pixels).last_hidden_state, seen[0])
    assert open_clip.get_model_config("tiny") is None  # so nothing was looked up


def test_a_folder_published_for_open_clip_is_loaded_and_its_weights_are_not_needed_for_sizes(
    tmp_path,
):
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    described = {
        "model_cfg": {"embed_dim": 8, "vision_cfg": OPEN_CLIP_VISION, "text_cfg": OPEN_CLIP_TEXT},
        "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(described))
    with torch.device("meta"):
        sizes = load_folder(tmp_path)
    with pytest.raises(ValueError, match=r"want open_clip_model.safetensors or .* beside"):
        load_folder(tmp_path)
    weights = CLIP(8, OPEN_CLIP_VISION, OPEN_CLIP_TEXT).state_dict()
    save_file(weights, tmp_path / "open_clip_model.safetensors")
    tower = load_folder(tmp_path)
    assert torch.equal(tower.visual.conv1.weight, weights["visual.conv1.weight"])
    assert tower.config.image_mean == [0.1, 0.2, 0.3]
    assert {name: w.shape for name, w in sizes.state_dict().items()} == {
        name: w.shape for name, w in tower.state_dict().items()
    }


def test_the_weights_of_another_open_clip_model_are_refused(tmp_path):
    torch.save({"visual.conv1.weight": torch.zeros(1)}, tmp_path / "other.bin")
    wrong = r"other.bin: not the weights of tiny: \d+ missing: .*; 1 of another shape: conv1.weight"
    with pytest.raises(ValueError, match=wrong):
        open_clip_vit().load_weights(tmp_path / "other.bin")


@pytest.mark.parametrize(
    "name, positions, width",
    [("ViT-bigG-14", 257, 1664), ("ViT-B-16-SigLIP", 196, 768)],
)
def test_a_model_of_open_clip_is_known_by_its_name(name, positions, width):
    config = OpenClipVisionConfig(name=name)
    assert (config.image_size, config.num_positions, config.hidden_size) == (224, positions, width)
    assert config.has_class_position == ("SigLIP" not in name)
    with torch.device("meta"):
        tower = OpenClipVision(config)
        features = tower(torch.zeros(1, 3, 224, 224)).last_hidden_state
    features.sum().backward()
    assert features.shape[1:] == (positions, width)
    assert [name for name, p in tower.named_parameters() if p.grad is None] == []


def test_the_features_of_an_image_do_not_depend_on_its_batch_in_training_either():
    torch.manual_seed(0)
    tower = open_clip_resnet().train()
    pixels = torch.randn(3, 3, 64, 64)
    together = tower(pixels).last_hidden_state
    torch.testing.assert_close(tower(pixels[:1]).last_hidden_state, together[:1])


def test_images_are_normalised_as_the_weights_of_open_clip_were_trained():
    assert OpenClipVisionConfig(name="ViT-B-16-SigLIP").image_mean == (0.5, 0.5, 0.5)
    openai = OpenClipVisionConfig(name="ViT-L-14", pretrained="openai")
    assert openai.image_mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert openai.quick_gelu
    other = OpenClipVisionConfig(name="ViT-L-14", pretrained="laion2b_s32b_b82k")
    assert (other.image_mean, other.quick_gelu) == ((0.5, 0.5, 0.5), False)


def test_an_unknown_name_or_tag_of_open_clip_is_an_error_that_names_the_known():
    with pytest.raises(ValueError, match=r"no model 'ViT-L-41'; the nearest are .*ViT-L-14"):
        OpenClipVisionConfig(name="ViT-L-41")
    with pytest.raises(ValueError, match=r"no weights 'open' of ViT-L-14; known: openai"):
        OpenClipVisionConfig(name="ViT-L-14", pretrained="open")


def test_a_frozen_tower_runs_without_a_graph_in_its_own_dtype():
    tower = tower_of(clip().to(torch.bfloat16))
    pixels = torch.randn(1, 3, 16, 16)
    assert tower(pixels).requires_grad
    tower.requires_grad_(False)
    features = tower(pixels)
    assert not features.requires_grad
    assert features.dtype == torch.bfloat16


def test_a_tower_of_another_make_is_an_error():
    with pytest.raises(ValueError, match=r"one of clip_vision_model, .* this one is 'vit'"):
        with_tower(ViTModel(ViTConfig(**VISION)))
