"""Adapters: what they add, what they leave alone, saved, merged, in 4 bits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vchat.model.adapters import adapt, add_adapters, is_adapter, merge_adapters
from vchat.model.four_bit import FourBitLinear
from vchat.model.visual_chat import VisualChat

GOLDEN = Path(__file__).parents[1] / "golden"
SLOT, POSITIONS, IMAGE_SIZE = 128, 5, 16  # of the model in conftest.py
KINDS = [{}, {"dora": True}, {"four_bit": True}, {"dora": True, "four_bit": True}]


def inputs():
    torch.manual_seed(1)
    ids = torch.tensor([[1, *[SLOT] * POSITIONS, 5, 6, *[SLOT] * POSITIONS, 7, 8, 9]])
    return ids, torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE)


def adapted(new_model, **settings):
    model = new_model()
    adapt(model, rank=3, alpha=6.0, tower_targets=(), **settings)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


def test_a_fresh_adapter_changes_nothing_and_is_small(new_model):
    model = new_model().eval()
    before = model(*inputs()).logits
    num_before = model.num_parameters()
    adapt(model, rank=2, alpha=4.0, tower_targets=())
    torch.testing.assert_close(model.eval()(*inputs()).logits, before)
    added = sum(p.numel() for name, p in model.named_parameters() if is_adapter(name))
    assert 0 < added == model.num_parameters() - num_before < num_before / 4


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_saved_model_loads_with_its_adapters_and_merges_into_plain_weights(
    tmp_path, new_model, kind
):
    model = adapted(new_model, **kind)
    expected = model(*inputs()).logits
    model.save_pretrained(tmp_path / "adapted")
    loaded = VisualChat.from_pretrained(tmp_path / "adapted").eval()
    assert torch.equal(loaded(*inputs()).logits, expected)

    loaded.merge()
    torch.testing.assert_close(loaded(*inputs()).logits, expected, atol=2e-5, rtol=1e-4)
    names = [name for name, _ in loaded.named_parameters()]
    assert names == [name for name, _ in new_model().named_parameters()]
    loaded.save_pretrained(tmp_path / "merged")
    plain = VisualChat.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(plain(*inputs()).logits, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_adapter_gets_a_gradient_with_recomputed_activations_too(new_model, kind):
    model = adapted(new_model, **kind).train()
    ids, pixels = inputs()
    labels = torch.where(ids == 9, 9, -100)
    model.requires_grad_(False)
    trained = {name: p for name, p in model.named_parameters() if is_adapter(name)}
    for parameter in trained.values():
        parameter.requires_grad_(True)
    gradients = []
    for _ in range(2):
        model.zero_grad()
        model(ids, pixels, labels=labels).loss.backward()
        assert [name for name, p in trained.items() if p.grad is None] == []
        gradients.append([p.grad.clone() for p in trained.values()])
        model.activation_checkpointing_enable({"use_reentrant": False})
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_only_the_named_layers_of_the_named_parts_get_an_adapter(new_model):
    model = new_model()
    adapt(model, rank=2, alpha=2.0, decoder_targets=("q_proj", "v_proj"))
    found = {name.split(".lora_")[0] for name, _ in model.named_parameters() if is_adapter(name)}
    assert len(found) == 3 * 2
    assert all(name.startswith("decoder.") and name[-6:] in ("q_proj", "v_proj") for name in found)


def test_a_target_that_is_no_linear_layer_is_an_error_that_names_those_there_are(new_model):
    with pytest.raises(ValueError, match=r"no linear layer of Llama.* is called 'qproj'; .*q_proj"):
        adapt(new_model(), rank=2, alpha=2.0, decoder_targets=("qproj",))


def test_adapters_on_adapters_are_an_error(new_model):
    model = adapted(new_model)
    with pytest.raises(ValueError, match="has adapters already"):
        adapt(model, rank=2, alpha=2.0)


@pytest.mark.parametrize("in_features, out_features", [(96, 40), (64, 40), (70, 33)])
def test_a_layer_of_four_bits_is_near_its_weights_and_is_left_alone_by_a_cast(
    in_features, out_features
):
    torch.manual_seed(0)
    plain = nn.Linear(in_features, out_features)
    layer = FourBitLinear(in_features, out_features, bias=False)
    layer.quantise(plain.weight)
    weight = layer.weight
    assert (weight - plain.weight).abs().max() < 0.16 * plain.weight.abs().max()
    assert sum(b.numel() * b.element_size() for b in layer.buffers()) < 0.6 * weight.numel()
    assert torch.equal(layer.to(torch.bfloat16).weight, weight)
    x = torch.randn(3, in_features, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(dim=0).expand(3, in_features))


class Published(nn.Module):
    """The layers whose adapters the published code was measured on."""

    def __init__(self, golden):
        super().__init__()
        self.first, self.second = nn.Linear(16, 24), nn.Linear(24, 8, bias=False)
        self.head = nn.Linear(8, 4)
        for module, name in (
            (self.first, "a.layers.0.0"),
            (self.second, "a.layers.0.1"),
            (self.head, "head"),
        ):
            for part, parameter in module.named_parameters():
                parameter.data = torch.tensor(golden[f"lora/state/{name}.{part}"]).float()

    def get_output_embeddings(self):
        return self.head

    def forward(self, x):
        return self.head(self.second(self.first(x)))


def test_an_adapter_of_scale_one_over_rank_equals_the_published_one():
    golden = dict(np.load(GOLDEN / "modules" / "module_goldens.npz"))
    model, x = Published(golden), torch.tensor(golden["lora/x"])
    torch.testing.assert_close(model(x), torch.tensor(golden["lora/y_before"]), atol=2e-5, rtol=0)
    add_adapters(model, rank=4, alpha=1.0, dropout=0.0, targets=(), dora=False)
    for layer, name in ((model.first, "a.layers.0.0"), (model.second, "a.layers.0.1")):
        for adapter, side in ((layer.lora_A, "right"), (layer.lora_B, "left")):
            published = golden[f"lora/state/{name}.lora_{side}_weight"]
            adapter["default"].weight.data = torch.tensor(published).float().T.contiguous()
    torch.testing.assert_close(model(x), torch.tensor(golden["lora/y_lora"]), atol=2e-5, rtol=0)
    merge_adapters(model)
    fused = torch.tensor(golden["lora/fused/a.layers.0.0.weight"])
    torch.testing.assert_close(model.first.weight, fused, atol=2e-5, rtol=0)
    torch.testing.assert_close(model(x), torch.tensor(golden["lora/y_fused"]), atol=2e-5, rtol=0)
