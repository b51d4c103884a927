"""Makes toy models that chat, their checkpoint folders, and pictures to show them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    CLIPVisionConfig,
    LlamaConfig,
    PreTrainedConfig,
)

from vchat.base.files import sha256_file
from vchat.model.visual_chat import VisualChat
from vchat.shards.text.named_template import make_template
from vchat.shards.text.tokenizer import TextTokenizer
from vchat.train.chat.chat_model import ChatModel
from vchat_testing.chat_shapes import chat_tokenizer
from vchat_testing.toy import toy_tokenizer

IMAGE_SIZE = 16  # pixels
POSITIONS = 5  # per image: 1 + (16 / 8)^2


def toy_chat_model(
    folder: Path,
    *,
    max_positions: int = 2048,
    attention: str = "mmca",
    seed: int = 0,
    shape: str | None = None,
    tower: PreTrainedConfig | None = None,
) -> ChatModel:
    """Make a model with fixed random weights that answers with varied nonsense.

    Args:
        folder: where its toy tokenizer is written.
        max_positions: of its decoder.
        attention: `mmca` or `causal`.
        seed: of the weights.
        shape: of a chat template in `chat_shapes`; None for the template `visualchat`.
        tower: of another make than CLIP.
    """
    place = folder / "toy_tokenizer"
    written = toy_tokenizer(place) if shape is None else chat_tokenizer(place, shape=shape)
    tokenizer = TextTokenizer.load(written)
    template = make_template("visualchat" if shape is None else "chat", tokenizer=tokenizer)
    torch.manual_seed(seed)
    clip = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=IMAGE_SIZE,
        patch_size=8,
    )
    decoder = LlamaConfig(
        vocab_size=tokenizer.num_ids,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_positions,
    )
    model = VisualChat.from_parts(
        tower=AutoModel.from_config(clip if tower is None else tower),
        decoder=AutoModelForCausalLM.from_config(decoder),
        image_token_id=tokenizer.image_id,
        num_ids=tokenizer.num_ids,
        attention=attention,
    )
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=0.2)  # large enough that answers depend on the prompt
    return ChatModel(model=model.eval(), tokenizer=tokenizer, template=template)


def toy_picture(number: int) -> torch.Tensor:
    """Random pixels, uint8[3, 16, 16]; equal numbers give equal pictures."""
    generator = torch.Generator().manual_seed(number)
    shape = (3, IMAGE_SIZE, IMAGE_SIZE)
    return torch.randint(0, 256, shape, generator=generator).to(torch.uint8)


def save_toy_checkpoint(chat_model: ChatModel, out: Path, *, step: int = 3) -> Path:
    """Write what chat and evaluation read of a checkpoint; returns the step folder."""
    folder = out / f"step-{step:06d}"
    chat_model.model.save_pretrained(folder / "model")
    chat_model.tokenizer.save(folder / "tokenizer")
    template = chat_model.template
    shards = {
        "template": {"name": template.name, "system": template.system},
        "tokenizer_fingerprint": chat_model.tokenizer.fingerprint,
        "image_size": IMAGE_SIZE,
    }
    (folder / "shards.json").write_text(json.dumps(shards))
    (folder / "state.json").write_text(json.dumps({"format_version": 1, "step": step}))
    list_files(folder)
    return folder


def list_files(folder: Path) -> None:
    """Write `files.json` for what lies in a checkpoint folder now."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "files.json"]
    listing = {
        path.relative_to(folder).as_posix(): {
            "size_bytes": path.stat().st_size,
            "sha256": sha256_file(path),
        }
        for path in files
    }
    (folder / "files.json").write_text(json.dumps(listing))
