"""Every causal family of the library: exact packed, alone and in the library, or refused."""

from pathlib import Path

import pytest
import torch
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    CLIPVisionConfig,
    CLIPVisionModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from vchat.model import decoders
from vchat.model.attention import attend
from vchat.model.decoder_families import PROVEN, check_decoder, find_refusal
from vchat.model.visual_chat import VisualChat

SLOT, POSITIONS, LAYERS = 96, 5, 4
SIZES = {
    "vocab_size": SLOT,
    "hidden_size": 64,
    "word_embed_proj_dim": 64,
    "intermediate_size": 80,
    "ffn_dim": 80,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_k": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "shared_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "max_position_embeddings": 64,
    "sliding_window": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attention_dropout": 0.0,
    "attn_pdrop": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "logit_scale": 1.0,
}
"""Each is given to the families whose configuration has it."""

MIXED = ["sliding_attention", "full_attention"] * (LAYERS // 2)


def tiny_decoder(kind, **settings):
    """A decoder of random weights, large enough that attention is uneven, norms too."""
    fields = set(CONFIG_MAPPING[kind].__dataclass_fields__)
    fields |= set(getattr(CONFIG_MAPPING[kind], "attribute_map", {}))
    sizes = {name: value for name, value in SIZES.items() if name in fields}
    torch.manual_seed(0)
    decoder = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes | settings))
    for parameter in decoder.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=0.15)
        else:
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return decoder.eval()


def visual_chat(decoder, attention):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4}
    tower = CLIPVisionConfig(**sizes, num_hidden_layers=1, image_size=16, patch_size=8)
    return VisualChat.from_parts(
        tower=CLIPVisionModel(tower),
        decoder=decoder,
        image_token_id=SLOT,
        num_ids=SLOT + 1,
        attention=attention,
    ).eval()


@pytest.fixture(scope="module")
def dialogues():
    """Two dialogues of text and an image each: ids and pixels."""
    torch.manual_seed(3)
    pixels = torch.randint(0, 256, (2, 1, 3, 16, 16), dtype=torch.uint8)
    image = [SLOT] * POSITIONS
    texts = [1, 5, *image, 3, 4, 7, 8], [1, 12, *image, 13, 14, 15, 16, 17]
    return [(torch.tensor([ids]), one) for ids, one in zip(texts, pixels, strict=True)]


def summed_loss(model, dialogues):
    """Of dialogues packed into one row."""
    ids = torch.cat([one for one, _ in dialogues], dim=1)
    segments = [torch.full_like(one, number + 1) for number, (one, _) in enumerate(dialogues)]
    pixels = torch.cat([one for _, one in dialogues])
    labels = ids.masked_fill(ids == SLOT, -100)
    return model(ids, pixels, segment_ids=torch.cat(segments, dim=1), labels=labels).loss


def kinds_of_layers(kind):
    """The settings of a family under which it is tried: as it comes, and with windows mixed in."""
    fields = CONFIG_MAPPING[kind].__dataclass_fields__
    mixed = {"layer_types": MIXED}
    if "use_sliding_window" in fields:
        mixed["use_sliding_window"] = True
    return [{}, mixed] if "layer_types" in fields else [{}]


@pytest.mark.parametrize("attention", ["causal", "mmca"])
@pytest.mark.parametrize("kind", PROVEN)
def test_a_decoder_that_is_taken_is_the_same_packed_alone_cached_and_in_the_library(
    kind, attention, dialogues
):
    for settings in kinds_of_layers(kind):
        model = visual_chat(tiny_decoder(kind, **settings), attention)
        with torch.no_grad():
            packed = summed_loss(model, dialogues)
            alone = sum(summed_loss(model, [one]) for one in dialogues)
            torch.testing.assert_close(packed, alone, atol=2e-4, rtol=1e-5)
            for ids, pixels in dialogues:
                whole = model(ids, pixels).logits
                _, cache = model.extend(None, ids[:, : 2 + POSITIONS], pixels)
                _, cache = model.extend(cache, ids[:, 2 + POSITIONS : -1])
                last, _ = model.extend(cache, ids[:, -1:])
                torch.testing.assert_close(last, whole[:, -1], atol=1e-4, rtol=1e-5)
            if attention == "causal":
                embeddings = model.embed(ids, pixels)
                model.decoder.set_attn_implementation("eager")
                expected = model.decoder(inputs_embeds=embeddings, use_cache=False).logits
                torch.testing.assert_close(whole, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("kind", PROVEN)
def test_every_layer_of_a_decoder_that_is_taken_attends_once(kind, dialogues, monkeypatch):
    calls = []

    def counted(module, *args, **options):
        calls.append(module)
        return attend(module, *args, **options)

    monkeypatch.setattr("vchat.model.attention.attend", counted)
    model = visual_chat(tiny_decoder(kind), "causal")
    with torch.no_grad():
        model(*dialogues[0])
    assert len(calls) == len(set(calls)) == LAYERS


PLAIN = {
    "model_type": "gemma4_text",
    "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": 0,
}
NEEDED = {"gemma4_assistant": {"text_config": PLAIN}}
"""What a configuration cannot be made without."""


@pytest.mark.parametrize("kind", sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() - set(PROVEN)))
def test_every_other_family_is_refused_with_a_reason(kind):
    with pytest.raises(ValueError, match=r"^a decoder of type '.*' cannot be used: .{10}"):
        check_decoder(CONFIG_MAPPING[kind](**NEEDED.get(kind, {})))


LINEAR = ["linear_attention", "full_attention", "linear_attention"]


@pytest.mark.parametrize(
    "kind, settings, reason",
    [
        ("qwen3_5_text", {"layer_types": LINEAR}, "layer 0 is 'linear_attention'"),
        ("qwen3_next", {"layer_types": LINEAR}, "layer 0 is 'linear_attention'"),
        ("lfm2", {"layer_types": ["full_attention", "conv"]}, "layer 1 is 'conv'"),
        ("mamba", {}, "layer 0 is 'linear_attention'"),
        ("falcon_h1", {}, "layer 0 is 'hybrid'"),
        ("jamba", {}, "is 'linear_attention'"),
        ("llama4_text", {}, "is 'chunked_attention'"),
        ("deepseek_v3", {}, "kv_lora_rank = 512 asks for latent attention"),
        ("minicpm3", {}, "latent attention"),
        ("gpt_oss", {}, "attention sinks"),
        ("gemma2", {}, "soft-capped"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "later positions"),
        ("llama", {"is_causal": False}, "later positions"),
        ("llama", {"attention_dropout": 0.1}, "attention_dropout = 0.1"),
        ("seed_oss", {}, "attention_dropout = 0.1"),
        ("gpt2", {}, "attn_pdrop = 0.1"),
        ("granite", {"logits_scaling": 8.0}, "logits_scaling = 8.0"),
        ("cohere", {}, "logit_scale = 0.0625"),
        ("stablelm", {}, "nothing can be handed to it"),
        ("nemotron", {}, "nothing can be handed to it"),
        ("bloom", {}, "position biases"),
        ("bert", {"attention_probs_dropout_prob": 0.0}, "not among those that are proven"),
    ],
)
def test_the_reason_names_the_layer_or_the_setting(kind, settings, reason):
    sizes = {"num_hidden_layers": len(settings["layer_types"])} if "layer_types" in settings else {}
    config = AutoConfig.for_model(kind, **settings, **sizes)
    assert reason in str(find_refusal(config))


def test_a_refused_decoder_never_becomes_part_of_a_model():
    types = {"layer_types": ["conv", "full_attention", "conv", "conv"]}
    with pytest.raises(ValueError, match=r"type 'lfm2' .* layer 0 is 'conv'"):
        visual_chat(tiny_decoder("lfm2", **types), "causal")


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
        {
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "factor": 4.0,
            "short_factor": [1.0] * 8,
            "long_factor": [3.0] * 8,
            "original_max_position_embeddings": 10,
        },
    ],
)
def test_frequencies_that_depend_on_the_longest_dialogue_are_refused(dialogues, rope):
    most = rope.get("original_max_position_embeddings", 10)
    settings = {"max_position_embeddings": 40 if "short_factor" in rope else most}
    decoder = tiny_decoder("llama", rope_parameters=rope, **settings)
    model = visual_chat(decoder, "causal")
    short = [(ids[:, :most], pixels) for ids, pixels in dialogues]
    with torch.no_grad():
        packed = summed_loss(model, short)
        alone = sum(summed_loss(model, [one]) for one in short)
        torch.testing.assert_close(packed, alone, atol=2e-4, rtol=1e-5)
        with pytest.raises(ValueError, match="11 positions is longer than the 10 up to which"):
            summed_loss(model, [short[0], (dialogues[0][0], dialogues[0][1])])


def test_the_documents_list_the_decoders_that_are_taken():
    text = (Path(decoders.__file__).resolve().parents[1] / "docs" / "train.md").read_text()
    listed = text.split("<!-- decoders -->")[1]
    assert listed.replace("`", "").replace(",", " ").split() == list(PROVEN)
