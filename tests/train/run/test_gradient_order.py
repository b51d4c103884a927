"""Gradients arrive in one order, whatever a micro-batch holds: ZeRO 2 relies on it."""

from types import SimpleNamespace

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from vchat.model.visual_chat import VisualChat
from vchat.shards.loading.collate import IGNORED, Batch
from vchat_testing.training_runs import prepare_deepspeed

SIZES = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
SLOT = 9
IDS = {
    "image": [1, SLOT, SLOT, SLOT, SLOT, SLOT, 2, 3, 4, 0],
    "text only": [1, 2, 3, 4, 5, 6, 7, 8, 2, 0],
    "zero-weight": [0] * 10,
}


def batch_of(kind: str) -> Batch:
    ids = torch.tensor([IDS[kind]])
    labels = torch.full_like(ids, IGNORED)
    if kind != "zero-weight":
        labels[0, 7:9] = ids[0, 7:9]
    return Batch(
        pixels=torch.zeros(int(kind == "image"), 3, 8, 8, dtype=torch.uint8),
        token_ids=ids,
        labels=labels,
        position_ids=torch.arange(10)[None],
        segment_ids=(ids > 0).long(),
        keys=[[]],
        num_supervised=int((labels != IGNORED).sum()),
    )


@pytest.fixture
def model() -> VisualChat:
    tower = CLIPVisionModel(CLIPVisionConfig(image_size=8, patch_size=4, **SIZES))
    decoder = LlamaForCausalLM(LlamaConfig(vocab_size=10, **SIZES))
    return VisualChat.from_parts(tower=tower, decoder=decoder, image_token_id=SLOT, num_ids=10)


def test_gradients_of_all_parameters_arrive_in_one_order(model):
    prepare_deepspeed()
    from vchat.train.engine.engine import batch_loss

    class Engine(SimpleNamespace):
        def __call__(self, **inputs):
            return self.module(**inputs)

    arrived: list[str] = []
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: arrived.append(name))
    orders = []
    for kind in IDS:
        arrived.clear()
        engine = Engine(module=model, device=torch.device("cpu"))
        batch_loss(engine, batch_of(kind)).loss_sum.backward()
        orders.append(list(arrived))
    assert orders[1] == orders[0]
    assert orders[2] == orders[0]
    assert len(orders[0]) == len(list(model.parameters()))
