"""Trained parts and parameter groups."""

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from vchat.model.visual_chat import VisualChat
from vchat.train.config.run import OptimizerConfig
from vchat.train.engine.parts import freeze_other_parts, parameter_groups, part_parameters
from vchat_testing.training_runs import prepare_deepspeed


@pytest.fixture
def model() -> VisualChat:
    prepare_deepspeed()
    sizes = {
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    tower = CLIPVisionModel(CLIPVisionConfig(image_size=8, patch_size=4, **sizes))
    decoder = LlamaForCausalLM(LlamaConfig(vocab_size=10, **sizes))
    return VisualChat.from_parts(tower=tower, decoder=decoder, image_token_id=9, num_ids=10)


def test_the_parts_together_are_the_model_and_do_not_overlap(model):
    parts = ("embeddings", "head", "decoder", "projection", "tower")
    found = [id(p) for part in parts for p in part_parameters(model, part)]
    assert len(found) == len(set(found))
    assert set(found) == {id(p) for p in model.parameters()}


def test_by_default_only_embeddings_and_projection_are_trained(model):
    freeze_other_parts(model, ("embeddings", "projection"))
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"decoder", "projection"}
    assert model.get_input_embeddings().weight.requires_grad
    assert not model.get_output_embeddings().weight.requires_grad


def test_matrices_decay_vectors_do_not_and_embeddings_have_their_rate(model):
    settings = OptimizerConfig(lr=1e-3, embedding_lr=1e-4, weight_decay=0.1)
    groups = parameter_groups(model, settings)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    for group in groups:
        assert all((p.dim() >= 2) == (group["weight_decay"] > 0) for p in group["params"])
    slow = [group for group in groups if group["rate_factor"] != 1]
    assert len(slow) == 1
    assert slow[0]["rate_factor"] == pytest.approx(0.1)
    assert torch.equal(slow[0]["params"][0], model.get_input_embeddings().weight)


def test_a_matrix_that_zero_3_has_partitioned_still_decays(model):
    settings = OptimizerConfig(lr=1e-3, weight_decay=0.1)
    whole = [len(group["params"]) for group in parameter_groups(model, settings)]
    for parameter in model.parameters():
        parameter.ds_shape = parameter.shape
        parameter.data = torch.empty(0)
    assert [len(group["params"]) for group in parameter_groups(model, settings)] == whole


def test_nothing_to_train_is_an_error(model):
    model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"train.parts names nothing"):
        parameter_groups(model, OptimizerConfig(lr=1e-3))
