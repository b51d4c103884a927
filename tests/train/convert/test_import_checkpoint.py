"""Checkpoints of the published code: every key has its place, and the answers are its chat's."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from vchat.model.towers.hugging_face import normalise
from vchat.model.towers.import_qwen_vl import save_tower
from vchat.model.towers.qwen_vl import QwenVLVisual, QwenVLVisualConfig
from vchat.model.visual_chat import VisualChat
from vchat.shards.text.named_template import make_template
from vchat.shards.text.template import TextRound
from vchat.train.chat.chat_model import load_chat_model
from vchat.train.chat.generation import Sampling
from vchat.train.chat.session import ChatSession
from vchat.train.commands.import_checkpoint import command as import_command
from vchat.train.convert.import_checkpoint import import_model
from vchat.train.convert.published_tokenizer import extend_tokenizer
from vchat.train.engine.parts import freeze_other_parts
from vchat_testing.published_port import PublishedChat, add_special_tokens
from vchat_testing.toy_chat import toy_picture

TOKENIZER = Path(__file__).parents[2] / "golden" / "tokenizer"
NUM_IDS = 703
RANK = 3

DECODER_LAYER = [
    *(f"self_attn.{name}_proj.weight" for name in "qkvo"),
    *(f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
]
TOWER_LAYER = [
    *(f"self_attn.{name}_proj.{w}" for name in ("k", "v", "q", "out") for w in ("weight", "bias")),
    *(f"{name}.{w}" for name in ("layer_norm1", "layer_norm2") for w in ("weight", "bias")),
    *(f"mlp.{name}.{w}" for name in ("fc1", "fc2") for w in ("weight", "bias")),
]
PUBLISHED_KEYS = {
    "vis_encoder.vision_model.embeddings.class_embedding",
    "vis_encoder.vision_model.embeddings.patch_embedding.weight",
    "vis_encoder.vision_model.embeddings.position_embedding.weight",
    *(f"vis_encoder.vision_model.pre_layrnorm.{w}" for w in ("weight", "bias")),
    *(f"vis_encoder.vision_model.post_layernorm.{w}" for w in ("weight", "bias")),
    *(f"vis_encoder.vision_model.encoder.layers.0.{key}" for key in TOWER_LAYER),
    "lang_decoder.model.embed_tokens.weight",
    *(f"lang_decoder.model.layers.{i}.{key}" for i in range(2) for key in DECODER_LAYER),
    "lang_decoder.model.norm.weight",
    "lang_decoder.lm_head.weight",
    "lang_embed.weight",
    *(f"projection.{i}.{w}" for i in (0, 1) for w in ("weight", "bias")),
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Folders of a decoder with its tokenizer, and of a tower, as the published code reads them."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("parts")
    decoder = AutoModelForCausalLM.from_config(
        LlamaConfig(
            vocab_size=700,
            hidden_size=48,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
        )
    )
    tower = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
        )
    )
    for part in (decoder, tower):
        for parameter in part.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(std=0.2)
    decoder.save_pretrained(folder / "llama-2")
    tower.save_pretrained(folder / "clip")
    shutil.copytree(TOKENIZER, folder / "llama-2", dirs_exist_ok=True)
    return folder / "llama-2", folder / "clip"


@pytest.fixture(scope="module")
def trained(parts):
    """The state that the published code has in memory after training: LoRA beside the weights."""
    torch.manual_seed(1)
    decoder = AutoModelForCausalLM.from_pretrained(parts[0])
    decoder.resize_token_embeddings(NUM_IDS, mean_resizing=False)
    tower = CLIPVisionModel.from_pretrained(parts[1])
    state = {f"vis_encoder.vision_model.{key}": value for key, value in tower.state_dict().items()}
    state |= {f"lang_decoder.{key}": value for key, value in decoder.state_dict().items()}
    state["lang_embed.weight"] = torch.randn(NUM_IDS, 48) * 0.2
    state |= {
        "projection.0.weight": torch.randn(48, 32) * 0.2,
        "projection.0.bias": torch.randn(48),
    }
    state |= {"projection.1.weight": torch.rand(48), "projection.1.bias": torch.randn(48) * 0.1}
    assert set(state) == PUBLISHED_KEYS
    for key in [one for one in state if "decoder.model.layers." in one and "_proj" in one]:
        rows, columns = state[key].shape
        stem = key.removesuffix(".weight")
        state[f"{stem}.lora_right_weight"] = torch.randn(columns, RANK) * 0.3
        state[f"{stem}.lora_left_weight"] = torch.randn(RANK, rows) * 0.3
    return state


def fused(state):
    """What is saved: LoRA fused into the weights, its own keys still there."""
    saved = dict(state)
    for key in state:
        if key.endswith("lora_left_weight"):
            stem = key.removesuffix(".lora_left_weight")
            change = state[key].t() @ state[f"{stem}.lora_right_weight"].t()
            saved[f"{stem}.weight"] = state[f"{stem}.weight"] + 1 / RANK * change
    return saved


def under_zero_3(state):
    """What is saved in its place under ZeRO-3: parameters only, none of LoRA's."""
    return {key: value for key, value in fused(state).items() if "lora" not in key}


def with_buffers(state):
    """What older library versions save as well."""
    rotary = "lang_decoder.model.layers.{}.self_attn.rotary_emb.inv_freq"
    buffers = {rotary.format(i): torch.ones(6) for i in range(2)}
    buffers["vis_encoder.vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    return fused(state) | buffers


SAVED = {
    "fused": fused,
    "apart": dict,
    "zero-3": under_zero_3,
    "with buffers": with_buffers,
}


def import_state(state, parts, folder, **settings):
    file = folder / "pytorch_model.bin"
    torch.save(state, file)
    tokenizer = extend_tokenizer(parts[0])
    options = {"attention": "mmca_published", "lora": "auto"} | settings
    return import_model(file, decoder=parts[0], tower=parts[1], tokenizer=tokenizer, **options)


@pytest.mark.parametrize("way", SAVED)
def test_every_way_of_saving_gives_the_trained_weights(parts, trained, tmp_path, way):
    model, account = import_state(SAVED[way](trained), parts, tmp_path)
    assert account.lora == {"zero-3": "none", "apart": "apart"}.get(way, "fused")
    for key, wanted in under_zero_3(trained).items():
        if "post_layernorm" in key:
            continue  # behind what is read
        name = key.replace("vis_encoder.vision_model.", "tower.model.")
        name = name.replace("lang_decoder.", "decoder.").replace("lang_embed", "prompt_embeddings")
        torch.testing.assert_close(model.state_dict()[name], wanted, msg=key)
    config = model.config
    assert (config.attention, config.image_order) == ("mmca_published", "reversed")
    assert config.prompt_table


@pytest.fixture(scope="module")
def published_chat(parts, trained):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(parts[0] / "tokenizer.json"), bos_token="<s>", eos_token="</s>"
    )

    def make() -> PublishedChat:
        return PublishedChat(
            state=fused(trained),
            config=LlamaConfig.from_pretrained(parts[0]),
            vis_encoder=CLIPVisionModel.from_pretrained(parts[1]).eval(),
            tokenizer=add_special_tokens(tokenizer),
        )

    return make


DIALOGUE = [
    ("What color is the square?", 2),
    ("And  the circle?\nTell me.", 0),
    ("How many in this one?", 1),
    ("Why?", 0),
]


def test_an_imported_model_answers_a_dialogue_as_the_published_chat(
    parts, trained, published_chat, tmp_path
):
    torch.save(fused(trained), tmp_path / "pytorch_model.bin")
    arguments = ["dsvl", tmp_path, "--decoder", parts[0], "--tower", parts[1]]
    result = CliRunner().invoke(
        import_command, [*map(str, arguments), "--out", str(tmp_path / "out")]
    )
    assert result.exit_code == 0, result.output
    chat_model, opened = load_chat_model(tmp_path / "out")
    assert opened.step == 0
    session = ChatSession(chat_model, sampling=Sampling(max_new_tokens=12))
    logits = []
    extend = session._extend
    session._extend = lambda *fed: logits.append(extend(*fed)) or logits[-1]
    theirs = published_chat()
    mean, std = chat_model.model.tower.mean, chat_model.model.tower.std
    number = 0
    for question, num_images in DIALOGUE:
        pictures = [toy_picture(number + i) for i in range(num_images)]
        number += num_images
        logits.clear()
        list(session.ask(question, images=pictures))
        pixels = [normalise(one[None], mean=mean, std=std)[0] for one in pictures]
        answer, first = theirs.ask(question, pixels, length=12)
        torch.testing.assert_close(logits[0][0], first, atol=2e-5, rtol=0)
        known = [one for one in session.ids if one != chat_model.tokenizer.image_id]
        wanted = [one for one in theirs.system_instruct if one != chat_model.tokenizer.image_id]
        assert known + session.pending_ids == wanted
        assert len(answer) == session.rounds[-1].num_tokens


def test_prompts_of_several_rounds_have_the_published_ids(parts, published_chat):
    tokenizer = extend_tokenizer(parts[0])
    assert [tokenizer.image_id, tokenizer.num_ids] == [701, NUM_IDS]
    template = make_template("visualchat-published", tokenizer=tokenizer)
    theirs = published_chat()
    encoded = tokenizer.encode(template.round("", "Red.", num_images=0, first_image=1))
    answer = encoded.ids[encoded.supervised].tolist()[:-1]
    theirs.generate = lambda ids, length: (list(answer), None)
    for question, num_images in DIALOGUE:
        theirs.ask(question, [torch.zeros(0)] * num_images, length=1)
    rounds = [TextRound(num_images=n, question=q, answer="Red.") for q, n in DIALOGUE]
    ids = tokenizer.encode(template.dialogue(rounds)).ids.tolist()
    assert ids == theirs.system_instruct


@pytest.mark.parametrize(
    "change, message",
    [
        ({"lang_decoder.extra.weight": torch.ones(1)}, r"1 keys are unknown: lang_decoder.extra"),
        ({"other.weight": torch.ones(1)}, r"1 keys are unknown: other.weight"),
        (
            {"lang_embed.weight": torch.ones(5, 48)},
            r"lang_embed.weight has shape \[5, 48\], .* \[703",
        ),
        (
            {"projection.0.lora_right_weight": torch.ones(1)},
            "projection.0.lora_right_weight is there",
        ),
        (
            {"projection.9.lora_left_weight": torch.ones(1)},
            "projection.9.lora_left_weight is there",
        ),
    ],
)
def test_a_key_that_does_not_fit_stops_the_import(parts, trained, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        import_state(under_zero_3(trained) | change, parts, tmp_path)


def test_a_missing_key_stops_the_import(parts, trained, tmp_path):
    state = under_zero_3(trained)
    del state["lang_decoder.model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(ValueError, match=r"1 keys are missing: decoder.model.layers.1.mlp.up"):
        import_state(state, parts, tmp_path)


def test_a_file_without_the_published_projection_is_an_error(parts, trained, tmp_path):
    state = {key: value for key, value in trained.items() if "projection" not in key}
    with pytest.raises(ValueError, match="no projection of the published code"):
        import_state(state, parts, tmp_path)


def test_a_model_with_the_qwen_vl_tower_is_imported_with_its_tower(parts, trained, tmp_path):
    sizes = {"patch_width": 24, "intermediate_size": 40, "num_hidden_layers": 1}
    grid = {"image_size": 16, "patch_size": 4, "num_table_positions": 4, "num_queries": 9}
    heads = {"num_attention_heads": 3, "hidden_size": 32, "resampler_head_width": 32}
    tower = QwenVLVisual(QwenVLVisualConfig(**sizes, **grid, **heads))
    save_tower(tower, tmp_path / "qwen")
    state = {k: v for k, v in under_zero_3(trained).items() if "vis_encoder" not in k}
    state |= {f"vis_encoder.{key}": value + 1 for key, value in tower.state_dict().items()}
    model, _ = import_state(state, (parts[0], tmp_path / "qwen"), tmp_path)
    for key, value in tower.state_dict().items():
        torch.testing.assert_close(model.tower.model.state_dict()[key], value + 1)
    assert model.config.positions_per_image == 9


def test_weights_that_lora_was_not_added_to_are_an_error_unless_lora_says_so(
    parts, trained, tmp_path
):
    others = {k: torch.randn_like(v) if "_proj.weight" in k else v for k, v in trained.items()}
    with pytest.raises(ValueError, match="neither those of the given parts"):
        import_state(others, parts, tmp_path)
    _, account = import_state(others, parts, tmp_path, lora="fused")
    assert account.lora == "fused"


def test_lora_saved_in_half_precision_is_recognized(parts, trained, tmp_path):
    for way, lora in ((fused, "fused"), (dict, "apart")):
        state = {key: value.half() for key, value in way(trained).items()}
        model, account = import_state(state, parts, tmp_path)
        assert account.lora == lora
        assert model.dtype == torch.float16


def test_a_file_that_is_no_weights_is_refused_without_running_it(parts, tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"weight": Evil()}, tmp_path / "pytorch_model.bin")
    arguments = ["dsvl", tmp_path, "--decoder", parts[0], "--tower", parts[1]]
    result = CliRunner().invoke(
        import_command, [*map(str, arguments), "--out", str(tmp_path / "out")]
    )
    assert "not a file of weights" in str(result.exception)
    assert not (tmp_path / "ran").exists()


def test_in_training_the_prompt_table_takes_the_place_of_the_decoders(parts, trained, tmp_path):
    model, _ = import_state(fused(trained), parts, tmp_path)
    freeze_other_parts(model, ("embeddings", "projection", "decoder"))
    ids = torch.tensor([[1, 5, *[701] * 5, 6, 7]])
    model(ids, toy_picture(0)[None], labels=torch.where(ids > 5, ids, -100) % 701).loss.backward()
    assert model.prompt_embeddings.weight.grad.abs().sum() > 0
    assert not model.decoder.get_input_embeddings().weight.requires_grad
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    model.save_pretrained(tmp_path / "again")
    again = VisualChat.from_pretrained(tmp_path / "again")
    assert torch.equal(again.prompt_embeddings.weight, model.prompt_embeddings.weight)
    assert json.loads((tmp_path / "again" / "config.json").read_text())["prompt_table"]
