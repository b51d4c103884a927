"""What a training step of a row of 4,096 positions never allocates, measured on every operation."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
)

from vchat.model.loss import LOGITS_PER_CHUNK
from vchat.model.visual_chat import VisualChat

POSITIONS, PER_IMAGE, NUM_IMAGES = 4_096, 257, 8


class Allocations(TorchDispatchMode):
    """Notes the bytes of the largest tensor that any operation makes, backward included."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else [result]:
            if isinstance(one, torch.Tensor):
                self.largest = max(self.largest, one.untyped_storage().nbytes())
        return result


def new_model(*, num_ids, attention="mmca"):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    tower = CLIPVisionConfig(**sizes, num_hidden_layers=1, image_size=32, patch_size=2)
    decoder = LlamaConfig(
        **sizes, num_hidden_layers=2, vocab_size=num_ids - 1, max_position_embeddings=POSITIONS
    )
    return VisualChat.from_parts(
        tower=CLIPVisionModel(tower).requires_grad_(False),
        decoder=AutoModelForCausalLM.from_config(decoder),
        image_token_id=num_ids - 1,
        num_ids=num_ids,
        attention=attention,
    )


def row(*, slot, supervised):
    """Eight images of 257 positions, text before each; the first positions are supervised."""
    text = POSITIONS // NUM_IMAGES - PER_IMAGE
    one = torch.cat([torch.arange(text) % 100, torch.full((PER_IMAGE,), slot)])
    ids = one.repeat(NUM_IMAGES)[None]
    labels = torch.full_like(ids, -100)
    labels[:, :supervised] = ids[:, :supervised]
    return ids, torch.where(labels == slot, -100, labels)


def largest_allocation(model, ids, labels):
    pixels = torch.zeros(NUM_IMAGES, 3, 32, 32, dtype=torch.uint8)
    with torch.no_grad():  # the tower is not what is measured
        embeddings = model.embed(ids, pixels)
    with Allocations() as allocated:
        model(ids, inputs_embeds=embeddings, labels=labels).loss.backward()
    return allocated.largest


def test_a_vocabulary_of_128k_gives_no_logits_for_all_positions():
    num_ids = 131_072
    model = new_model(num_ids=num_ids)
    model.get_output_embeddings().requires_grad_(False)
    ids, labels = row(slot=num_ids - 1, supervised=200)
    largest = largest_allocation(model, ids, labels)
    assert largest >= LOGITS_PER_CHUNK * 4  # the measurement sees the logits of a chunk
    assert largest < POSITIONS * num_ids * 4 / 16


@pytest.mark.parametrize("attention", ["mmca", "causal"])
def test_no_mask_and_no_scores_of_all_pairs_of_positions_exist(attention):
    model = new_model(num_ids=200, attention=attention)
    ids, labels = row(slot=199, supervised=POSITIONS)
    largest = largest_allocation(model, ids, labels)
    assert POSITIONS * 16 * 4 <= largest < POSITIONS**2  # one byte for each pair would be more


def test_the_published_attention_does_allocate_them():
    model = new_model(num_ids=200, attention="mmca_published")
    ids, labels = (one[:, :1024] for one in row(slot=199, supervised=POSITIONS))
    with Allocations() as allocated:
        model(ids, inputs_embeds=torch.randn(1, 1024, 16), labels=labels).loss.backward()
    assert allocated.largest >= 1024**2  # so the measurement above can fail
