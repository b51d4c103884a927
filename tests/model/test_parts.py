"""Projection, splice, loss and configuration, each alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from vchat.model import loss as loss_module
from vchat.model.config import VisualChatConfig
from vchat.model.loss import SummedCrossEntropy
from vchat.model.projection import projection_named

MODULES = Path(__file__).parents[1] / "golden" / "modules"


def test_the_baseline_projection_equals_the_reference():
    golden = np.load(MODULES / "module_goldens.npz")
    weights = load_file(MODULES / "proj_baseline.safetensors")
    projection = projection_named("baseline", tower_width=32, decoder_width=48)
    projection.load_state_dict({key: value.float() for key, value in weights.items()})
    features = torch.tensor(golden["input/x17"]).float()
    expected = torch.tensor(golden["baseline/out_x17"])
    torch.testing.assert_close(projection(features), expected, atol=2e-5, rtol=0)


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
