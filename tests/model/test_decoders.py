"""Every kind of decoder, tiny and random: `mmca` by the formula, `causal` by the library."""

import pytest
import torch
from torch.nn import functional
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForCausalLM,
    CLIPVisionConfig,
    CLIPVisionModel,
)

from vchat.model.attention import IMAGE, TEXT, visible_keys
from vchat.model.visual_chat import VisualChat

SLOT, POSITIONS = 96, 5
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
DECODERS = {
    "llama": {},
    "llama-tied": {"tie_word_embeddings": True},
    "llama3": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        }
    },
    "llama-yarn": {"rope_parameters": YARN},
    "smollm": {"tie_word_embeddings": True, "rope_parameters": {"rope_theta": 1e5}},
    "qwen2": {},
    "qwen2.5": {"use_sliding_window": False, "sliding_window": 10, "max_window_layers": 1},
    "qwen2-window": {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1},
    "qwen2-tied": {"tie_word_embeddings": True, "rope_parameters": {"rope_theta": 1e6}},
    "qwen3": {"head_dim": 24},
    "mistral": {"sliding_window": None},
    "mistral-window": {"sliding_window": 64},
    "olmo2": {},
    "smollm3": {"pad_token_id": 0},
    "phi": {},
    "phi3": {"pad_token_id": 0},
    "gemma": {"head_dim": 16},
}


def new_decoder(name, **settings):
    """Make the decoder `name` up to its first dash, with weights that make attention uneven."""
    torch.manual_seed(0)
    sizes = {
        "vocab_size": SLOT,
        "hidden_size": 64,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    same_as = {"llama3": "llama", "smollm": "llama", "qwen2.5": "qwen2"}
    model_type = same_as.get(name, name.split("-")[0])
    config = AutoConfig.for_model(model_type, **{**sizes, **DECODERS.get(name, {}), **settings})
    decoder = AutoModelForCausalLM.from_config(config)
    for parameter in decoder.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=0.15)
    return decoder.eval()


def visual_chat(decoder, attention):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4}
    tower = CLIPVisionModel(
        CLIPVisionConfig(**sizes, num_hidden_layers=1, image_size=16, patch_size=8)
    )
    model = VisualChat.from_parts(
        tower=tower,
        decoder=decoder,
        image_token_id=SLOT,
        num_ids=SLOT + 1,
        attention=attention,
    )
    return model.eval()


def attend_by_the_book(module, query, key, value, mask, *, scaling, kinds, **_):
    """MMCA as two dense softmaxes over S x S scores."""
    heads = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(heads, dim=1) for x in (key, value))
    masks = visible_keys(kinds, torch.ones_like(kinds), queries=torch.arange(kinds.shape[1]))
    scores = query @ key.transpose(2, 3) * scaling
    output = torch.where((kinds == IMAGE)[:, None, :, None], value, torch.zeros_like(value))
    for seen in masks:
        output += scores.masked_fill(~seen[:, None], -torch.inf).softmax(-1).nan_to_num() @ value
    return output.transpose(1, 2), None


AttentionInterface.register("by_the_book", attend_by_the_book)
AttentionMaskInterface.register("by_the_book", lambda *_, **__: None)


@pytest.fixture
def batch(row):
    ids, pixels = row("ttIttItttt")
    return ids.masked_fill(ids == 128, SLOT).where(ids == 128, ids % SLOT), pixels


@pytest.mark.parametrize("name", DECODERS)
def test_mmca_equals_the_textbook(batch, name):
    ids, pixels = batch
    model = visual_chat(new_decoder(name), "mmca")
    ours = model(ids, pixels).logits
    model.decoder.set_attn_implementation("by_the_book")
    kinds = torch.where(ids == SLOT, IMAGE, TEXT)
    embeddings = model.embed(ids, pixels)
    expected = model.decoder(inputs_embeds=embeddings, use_cache=False, kinds=kinds).logits
    torch.testing.assert_close(ours, expected, atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("name", DECODERS)
def test_causal_equals_the_library(batch, name):
    ids, pixels = batch
    model = visual_chat(new_decoder(name), "causal")
    ours = model(ids, pixels).logits
    model.decoder.set_attn_implementation("eager")
    expected = model.decoder(inputs_embeds=model.embed(ids, pixels), use_cache=False).logits
    torch.testing.assert_close(ours, expected, atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("name", DECODERS)
def test_the_loss_equals_that_of_all_logits(batch, name):
    ids, pixels = batch
    model = visual_chat(new_decoder(name), "mmca")
    assert model._skips_images, "the last layer should skip image rows for this decoder"
    labels = ids.masked_fill(ids == SLOT, -100)
    logits = model(ids, pixels).logits[:, :-1].flatten(0, 1)
    expected = functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum")
    loss = model(ids, pixels, labels=labels).loss
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-5)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", DECODERS)
def test_extending_a_cache_equals_all_at_once(batch, name):
    ids, pixels = batch
    model = visual_chat(new_decoder(name), "mmca")
    cut = 3 + POSITIONS
    _, cache = model.extend(None, ids[:, :cut], pixels[:1])
    logits, _ = model.extend(cache, ids[:, cut:-1], pixels[1:])
    logits, _ = model.extend(cache, ids[:, -1:])
    expected = model(ids, pixels).logits[:, -1]
    torch.testing.assert_close(logits, expected, atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("name", DECODERS)
def test_known_images_equal_their_pixels(batch, name):
    ids, pixels = batch
    model = visual_chat(new_decoder(name), "mmca")
    assert model.reuses_images
    images = [model.compute_image_states(one[None], num_positions=POSITIONS) for one in pixels]
    logits, _ = model.extend(None, ids, images=images)
    torch.testing.assert_close(logits, model(ids, pixels).logits[:, -1], atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("bloom", {"n_layer": 1, "n_head": 4}, "position biases"),
        ("mpt", {"d_model": 64, "n_layers": 1, "n_heads": 4}, "position biases"),
        ("gemma2", {"head_dim": 16, "attn_logit_softcapping": None}, "final_logit_softcapping"),
        ("gemma2", {"head_dim": 16, "final_logit_softcapping": None}, "attn_logit_softcapping"),
        ("llama", {"attention_dropout": 0.1}, "attention_dropout = 0.1"),
        ("granite", {"logits_scaling": 8.0}, "logits_scaling"),
    ],
)
def test_a_decoder_that_computes_something_else_is_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        visual_chat(new_decoder(name, **settings), "mmca")


@pytest.mark.parametrize("attention", ["mmca", "causal"])
def test_a_dialogue_longer_than_the_sliding_window_is_refused(batch, attention):
    model = visual_chat(new_decoder("mistral", sliding_window=10), attention)
    with pytest.raises(ValueError, match=r"18 positions is longer than .* window of 10"):
        model(*batch)
