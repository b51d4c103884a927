"""Projection, splice, loss and configuration, each alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from transformers import CLIPVisionConfig

from vchat.model import loss as loss_module
from vchat.model.config import VisualChatConfig
from vchat.model.loss import SummedCrossEntropy
from vchat.model.towers.projection import build_projection, resize_grid

GOLDEN_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
MODULES = Path(__file__).parents[1] / "golden" / "modules"


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(MODULES / "module_goldens.npz"))


def golden_projection(name, *, decoder_width):
    tower_config = CLIPVisionConfig(**GOLDEN_TOWER)
    return build_projection(
        name, tower_config=tower_config, has_class_position=True, decoder_width=decoder_width
    )


def load_golden_weights(projection, name):
    weights = load_file(MODULES / f"proj_{name}.safetensors")
    missing = projection.load_state_dict({k: v.float() for k, v in weights.items()}, strict=False)
    assert missing.unexpected_keys == []
    return missing.missing_keys


@pytest.mark.parametrize("name", ["baseline", "vit"])
def test_the_projection_equals_the_reference(golden, name):
    projection = golden_projection(name, decoder_width=48)
    assert load_golden_weights(projection, name) == []
    features = torch.tensor(golden["input/x17"]).float()
    expected = torch.tensor(golden[f"{name}/out_x17"])
    torch.testing.assert_close(projection(features), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("num_features", [17, 65, 257])
def test_the_perceiver_equals_the_reference(golden, num_features):
    projection = golden_projection("perceiver", decoder_width=128)
    assert load_golden_weights(projection, "perceiver") == ["pos_embed"]
    features = torch.tensor(golden[f"input/x{num_features}"]).float()
    rows = torch.tensor(golden["perceiver/rows"]).long()
    expected = torch.tensor(golden[f"perceiver/out_x{num_features}"])
    torch.testing.assert_close(projection(features)[:, rows], expected, atol=2e-5, rtol=0)
    positions = torch.tensor(golden["perceiver/pos_embed"])
    torch.testing.assert_close(projection.pos_embed[rows], positions, atol=2e-5, rtol=0)
    resized = torch.tensor(golden["perceiver/pos_embed_resized_to_65"])
    ours = resize_grid(projection.pos_embed, num_positions=64)[::7]
    torch.testing.assert_close(ours, resized, atol=2e-5, rtol=0)


def test_the_perceiver_with_two_heads_equals_the_reference(golden):
    projection = golden_projection("perceiver", decoder_width=256)
    draws = np.random.RandomState(24)
    for name, weight in sorted(projection.named_parameters()):
        noise = draws.randn(*weight.shape).astype(np.float32)
        if weight.ndim == 1:
            value = (1 if name.endswith("weight") else 0) + 0.1 * noise
        else:
            value = noise / np.sqrt(weight.shape[-1])
        weight.data = torch.tensor(value.astype(np.float16)).float()
    rows = torch.tensor(golden["perceiver256/rows"]).long()
    expected = torch.tensor(golden["perceiver256/out_x65"])
    features = torch.tensor(golden["input/x65"]).float()
    torch.testing.assert_close(projection(features)[:, rows], expected, atol=2e-5, rtol=0)


def test_a_perceiver_for_an_odd_width_is_an_error():
    with pytest.raises(ValueError, match="multiple of that; it is 96"):
        golden_projection("perceiver", decoder_width=96)


def test_a_perceiver_of_features_that_form_no_square_is_an_error():
    with pytest.raises(ValueError, match="square of image features, got 12"):
        golden_projection("perceiver", decoder_width=128)(torch.zeros(1, 13, 32))


@pytest.mark.parametrize("field", ["attention", "projection"])
def test_an_unknown_name_in_the_configuration_is_an_error(field):
    with pytest.raises(ValueError, match=f"{field} must be one of .*; got 'mcma'"):
        VisualChatConfig(**{field: "mcma"})


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows_per_chunk", [1, 3, 100])
def test_chunks_change_neither_the_loss_nor_its_gradients(bias, rows_per_chunk, monkeypatch):
    monkeypatch.setattr(loss_module, "LOGITS_PER_CHUNK", 11 * rows_per_chunk)
    torch.manual_seed(0)
    hidden, head = torch.randn(7, 6, requires_grad=True), nn.Linear(6, 11, bias=bias)
    targets = torch.randint(0, 11, (7,))
    leaves = [hidden, *head.parameters()]
    expected = functional.cross_entropy(head(hidden), targets, reduction="sum")
    loss = SummedCrossEntropy()(hidden, head, targets)
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(
        torch.autograd.grad(3.0 * loss, leaves),
        torch.autograd.grad(3.0 * expected, leaves),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_a_loss_scale_beyond_float16_keeps_gradients_finite():
    hidden, head = torch.randn(4, 6).half().requires_grad_(), nn.Linear(6, 11).half()
    loss = SummedCrossEntropy()(hidden, head, torch.arange(4)) / 4096
    (loss * 2.0**17).backward()
    assert hidden.grad.isfinite().all()


def test_only_supervised_positions_meet_the_head(monkeypatch):
    monkeypatch.setattr(loss_module, "LOGITS_PER_CHUNK", 22)
    sizes = []
    linear = functional.linear
    monkeypatch.setattr(
        loss_module.functional, "linear", lambda x, *rest: sizes.append(len(x)) or linear(x, *rest)
    )
    SummedCrossEntropy()(torch.randn(5, 6), nn.Linear(6, 11), torch.arange(5))
    assert sizes == [2, 2, 1]
