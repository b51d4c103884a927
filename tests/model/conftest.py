"""Tiny models with fixed random weights, and reference values measured on the published code."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, CLIPVisionConfig, CLIPVisionModel, LlamaConfig

from vchat.model.visual_chat import VisualChat

GOLDEN = Path(__file__).parents[1] / "golden"
SLOT = 128  # the slot id of every model here; text ids are below
IMAGE_SIZE = 16  # pixels
POSITIONS = 5  # per image: 1 + (16 / 8)^2


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def tiny_tower() -> CLIPVisionModel:
    return CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=IMAGE_SIZE,
            patch_size=8,
        )
    )


def tiny_decoder(**settings: object) -> AutoModelForCausalLM:
    sizes = {
        "vocab_size": SLOT,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    return AutoModelForCausalLM.from_config(LlamaConfig(**{**sizes, **settings}))


@pytest.fixture
def new_model() -> Callable[..., VisualChat]:
    """Make a tiny VisualChat; keywords other than `attention` go to the decoder's configuration."""

    def make(*, attention: str = "mmca", seed: int = 0, **settings: object) -> VisualChat:
        torch.manual_seed(seed)
        decoder = tiny_decoder(**settings)
        for parameter in decoder.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(std=0.15)  # large enough that attention is not uniform
        return VisualChat.from_parts(
            tower=tiny_tower(),
            decoder=decoder,
            image_token_id=SLOT,
            num_ids=SLOT + 1,
            attention=attention,
        ).eval()

    return make


@pytest.fixture
def row() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Make one row from a drawing such as "tttIttI": t a text position, I a whole image."""

    def make(drawing: str, *, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator("cpu").manual_seed(seed)
        text = torch.randint(0, SLOT, (len(drawing),), generator=generator, device="cpu").tolist()
        ids = [
            token
            for kind, one in zip(drawing, text, strict=True)
            for token in ([SLOT] * POSITIONS if kind == "I" else [one])
        ]
        shape = (drawing.count("I"), 3, IMAGE_SIZE, IMAGE_SIZE)
        pixels = torch.randint(0, 256, shape, generator=generator, device="cpu").to(torch.uint8)
        return torch.tensor([ids]), pixels.to(torch.get_default_device())

    return make


@pytest.fixture(scope="session")
def goldens() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "llm" / "llm_goldens.npz"))


@pytest.fixture(scope="session")
def golden_model() -> Callable[[str, str], VisualChat]:
    """Make VisualChat around the reference decoder `llama_mha` or `llama_gqa`."""

    def make(name: str, attention: str) -> VisualChat:
        settings = json.loads((GOLDEN / "llm" / f"{name}.config.json").read_text())
        decoder = AutoModelForCausalLM.from_config(LlamaConfig(**settings))
        weights = load_file(GOLDEN / "llm" / f"{name}.safetensors")
        decoder.load_state_dict({key: value.float() for key, value in weights.items()})
        return VisualChat.from_parts(
            tower=tiny_tower(),
            decoder=decoder,
            image_token_id=SLOT,
            num_ids=SLOT + 1,
            attention=attention,
        ).eval()

    return make
