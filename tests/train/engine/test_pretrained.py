"""Folders of pretrained models, by anybody: whole or refused in one line; nothing is run."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from vchat.train.engine.starting_model import load_decoder, load_model, load_tower
from vchat_testing.toy_chat import save_toy_checkpoint, toy_chat_model

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
WEIGHTS = "model.safetensors"


@pytest.fixture
def decoder(tmp_path):
    LlamaForCausalLM(LlamaConfig(**SIZES, vocab_size=50)).save_pretrained(tmp_path / "decoder")
    return tmp_path / "decoder"


def change_weights(folder, change):
    weights = change(load_file(folder / WEIGHTS))
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


def change_config(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def without(part):
    return lambda weights: {k: v for k, v in weights.items() if part not in k}


def one_line(load, folder, *wanted):
    with pytest.raises(ValueError, match=re.escape(str(folder))) as raised:
        load(str(folder))
    message = str(raised.value)
    assert "\n" not in message
    assert all(part in message for part in wanted), message


def take_decoder(folder):
    return load_decoder(folder, num_ids=50)


def test_a_whole_decoder_has_the_weights_of_its_folder(decoder):
    loaded = take_decoder(str(decoder))
    for name, weight in load_file(decoder / WEIGHTS).items():
        assert torch.equal(loaded.state_dict()[name], weight), name


def test_missing_weights_of_a_decoder_are_listed(decoder):
    change_weights(decoder, without(".layers.1."))
    one_line(take_decoder, decoder, "9 missing: model.layers.1.input_layernorm.weight")


def test_weights_of_other_names_are_listed(decoder):
    change_weights(decoder, lambda weights: {f"foo.{k}": v for k, v in weights.items()})
    wanted = "missing: lm_head.weight", "unexpected: foo.lm_head.weight", "layers.*.mlp"
    one_line(take_decoder, decoder, *wanted)


def test_misshapen_and_surplus_weights_are_listed(decoder):
    odd = {"model.norm.weight": torch.ones(17), "model.more": torch.ones(1)}
    change_weights(decoder, lambda weights: weights | odd)
    wanted = "1 unexpected: model.more", "model.norm.weight is [17], wanted [16]"
    one_line(take_decoder, decoder, *wanted)


def test_a_missing_expert_is_an_error(tmp_path):
    config = MixtralConfig(**SIZES, vocab_size=50, num_local_experts=2, num_key_value_heads=1)
    MixtralForCausalLM(config).save_pretrained(tmp_path)
    take_decoder(str(tmp_path))
    change_weights(tmp_path, without("experts.1.w2"))
    with pytest.raises(ValueError, match=str(tmp_path)):
        take_decoder(str(tmp_path))


@pytest.fixture
def both_halves(tmp_path):
    vision = CLIPVisionConfig(**SIZES, image_size=16, patch_size=8).to_dict()
    text = {**SIZES, "vocab_size": 10, "max_position_embeddings": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision))
    model.save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


def test_a_tower_needs_its_own_half_and_nothing_that_is_not_read(both_halves):
    change_weights(both_halves, without("vision_model.post_layernorm"))
    load_tower(str(both_halves))
    change_weights(both_halves, without("text_model"))
    load_tower(str(both_halves))
    change_weights(both_halves, without("layers.1.mlp.fc1.bias"))
    one_line(load_tower, both_halves, "1 missing: ", "layers.1.mlp.fc1.bias")


def test_missing_weights_of_a_saved_model_are_listed(tmp_path):
    folder = save_toy_checkpoint(toy_chat_model(tmp_path), tmp_path / "out")
    change_weights(folder / "model", without("projection."))
    with pytest.raises(ValueError, match=r"4 missing: projection\.\*\.bias \(2\), projection"):
        load_model(folder)


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("{", "not a configuration in JSON"),
        ("[" * 100_000, "not a configuration in JSON"),
        ("[]", "want a JSON object, found list"),
        ("{}", "wants model_type"),
        ('{"model_type": 7}', "wants model_type"),
        ('{"model_type": "gargantua", "auto_map": {}}', "auto_map) is never run"),
        ('{"model_type": "llama", "hidden_size": "x"}', "not a configuration of 'llama'"),
        ('{"model_type": "llama", "num_attention_heads": 0}', "config"),
        ('{"model_type": "llama", "num_hidden_layers": 999999999}', "want at most 1000"),
        ('{"model_type": "llama", "quantization_config": {"quant_method": "x"}}', "quantised"),
        ('{"model_type": "mamba"}', "layer 0 is 'linear_attention'"),
        ('{"model_type": "clip"}', "no causal language model"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_one_line(decoder, text, wanted):
    (decoder / "config.json").write_text(text)
    one_line(take_decoder, decoder, wanted)


@pytest.mark.parametrize("damage", ["cut", "empty", "absent", "index", "outside", "pickle"])
def test_weight_files_that_cannot_be_used_are_one_line(decoder, damage):
    whole = decoder / WEIGHTS
    data = whole.read_bytes()
    whole.unlink()
    index = decoder / f"{WEIGHTS}.index.json"
    if damage in ("cut", "empty"):
        whole.write_bytes(data[: len(data) // 2] if damage == "cut" else b"")
    if damage == "index":
        index.write_text('{"weight_map": [1]}')
    if damage == "outside":
        (decoder.parent / "other.safetensors").write_bytes(data)
        index.write_text('{"weight_map": {"lm_head.weight": "../other.safetensors"}}')
    if damage == "pickle":
        (decoder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    one_line(take_decoder, decoder)


def test_weights_of_torch_of_any_age_load(decoder):
    weights = load_file(decoder / WEIGHTS)
    (decoder / WEIGHTS).unlink()
    for zipped in (True, False):
        file = decoder / "pytorch_model.bin"
        torch.save(weights, file, _use_new_zipfile_serialization=zipped)
        loaded = take_decoder(str(decoder)).state_dict()
        assert all(torch.equal(loaded[name], weight) for name, weight in weights.items())


def test_an_adapter_is_not_followed_to_another_model(decoder):
    (decoder / "adapter_config.json").write_text('{"base_model_name_or_path": "some/where"}')
    one_line(take_decoder, decoder, "holds an adapter")


def forbid(*_, **__):
    raise AssertionError("asked, or fetched")


def test_no_question_is_asked_no_code_run_no_kernel_fetched(decoder, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", forbid)
    monkeypatch.setattr("transformers.modeling_utils.lazy_import_flash_attention", forbid)
    monkeypatch.setattr("transformers.dynamic_module_utils.get_class_from_dynamic_module", forbid)
    code = {
        "auto_map": {"AutoConfig": "odd.Config", "AutoModelForCausalLM": "odd.Model"},
        "attn_implementation": "somebody/kernel",
        "_attn_implementation": "somebody/kernel",
        "experts_implementation": "somebody/kernel",
        "transformers_weights": "../../other.safetensors",
    }
    change_config(decoder, **code)
    (decoder / "odd.py").write_text("raise SystemExit('run')")
    take_decoder(str(decoder))

    folder = save_toy_checkpoint(toy_chat_model(tmp_path), tmp_path / "out") / "model"
    saved = json.loads((folder / "config.json").read_text())
    parts = {name: saved[name] | code for name in ("decoder_config", "tower_config")}
    change_config(folder, **code, **parts)
    load_model(folder)


def test_the_decoder_s_end_ids_are_kept_with_the_model(decoder, tmp_path):
    (decoder / "generation_config.json").write_text('{"eos_token_id": [2, 7, 9]}')
    loaded = take_decoder(str(decoder))
    assert loaded.generation_config.eos_token_id == [2, 7, 9]
    made = toy_chat_model(tmp_path)
    made.model.generation_config.eos_token_id = [2, 7, 9]
    again = load_model(save_toy_checkpoint(made, tmp_path / "out"))
    assert again.generation_config.eos_token_id == [2, 7, 9]


def test_a_table_of_a_hybrid_decoder_is_refused_also_where_only_sizes_are_wanted():
    table = {"model_type": "qwen3_5_text", **SIZES, "layer_types": ["linear_attention"] * 2}
    for device in ("cpu", "meta"):
        with torch.device(device), pytest.raises(ValueError, match="layer 0 is 'linear_attention'"):
            load_decoder(table, num_ids=50)
