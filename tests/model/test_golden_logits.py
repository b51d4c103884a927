"""The whole decoder against values of the published code and of the paper's formula.

The reference names the published code `mmca`; the paper's formula, which is our `mmca`, it names
`paper_own`.
"""

import pytest
import torch

CASES = [
    "single_image",
    "two_interleaved",
    "adjacent_images",
    "text_only",
    "image_first",
    "images_last",
    "right_padded_batch",
]
ARITHMETIC = {"mmca": "paper_own", "mmca_published": "mmca", "causal": "causal"}
SLOT = 128
PADDING, IMAGE = 0, 2


def golden_inputs(model, goldens, case):
    """Return (ids, mask, embeddings) of a case, the embeddings as a leaf that takes gradients."""
    modality = torch.tensor(goldens[f"{case}/modality"]).long()
    ids = torch.tensor(goldens[f"{case}/input_ids"]).long()
    embeddings = model.get_input_embeddings()(ids).detach().clone()
    images = torch.tensor(goldens[f"{case}/image_embeds"]).float()
    embeddings[modality == IMAGE] = images
    ids = ids.masked_fill(modality == IMAGE, SLOT)
    return ids, (modality != PADDING).long(), embeddings.requires_grad_()


@pytest.mark.parametrize("attention", ARITHMETIC)
@pytest.mark.parametrize("name", ["llama_mha", "llama_gqa"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cached", [False, True])
def test_logits_equal_the_reference(golden_model, goldens, attention, name, case, cached):
    model = golden_model(name, attention)
    ids, mask, embeddings = golden_inputs(model, goldens, case)
    output = model(ids, attention_mask=mask, inputs_embeds=embeddings, use_cache=cached)
    expected = torch.tensor(goldens[f"{case}/{name}/logits_{ARITHMETIC[attention]}"])
    real = mask.bool()
    torch.testing.assert_close(output.logits[..., :SLOT][real], expected[real], atol=2e-5, rtol=0)


@pytest.mark.parametrize("attention", ARITHMETIC)
@pytest.mark.parametrize("name", ["llama_mha", "llama_gqa"])
def test_loss_and_its_gradient_equal_the_reference(golden_model, goldens, attention, name):
    model = golden_model(name, attention)
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight[:SLOT])  # the reference has no row for the slot
    case = "two_interleaved"
    ids, mask, embeddings = golden_inputs(model, goldens, case)
    labels = torch.full_like(ids, -100)
    labels[:, -5:] = ids[:, -5:]
    loss = model(ids, attention_mask=mask, inputs_embeds=embeddings, labels=labels).loss / 5
    loss.backward()
    prefix, arithmetic = f"{case}/{name}", ARITHMETIC[attention]
    expected = torch.tensor(goldens[f"{prefix}/loss_{arithmetic}"])
    gradient = torch.tensor(goldens[f"{prefix}/grad_embeds_{arithmetic}"])
    torch.testing.assert_close(loss, expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(embeddings.grad, gradient, atol=2e-5, rtol=0)


@pytest.mark.parametrize("attention", ["mmca_published", "causal"])
@pytest.mark.parametrize("name", ["llama_mha", "llama_gqa"])
@pytest.mark.parametrize("case", ["text_only", "two_interleaved"])
def test_greedy_decoding_equals_the_reference(golden_model, goldens, attention, name, case):
    model = golden_model(name, attention)
    ids, mask, embeddings = golden_inputs(model, goldens, case)
    prefix = f"{case}/{name}/greedy_{ARITHMETIC[attention]}"
    output = model(ids, attention_mask=mask, inputs_embeds=embeddings, use_cache=True)
    logits, cache, tokens = output.logits[:, -1], output.past_key_values, []
    for step in torch.tensor(goldens[f"{prefix}_step_logits"]):
        torch.testing.assert_close(logits[0, :SLOT], step, atol=2e-5, rtol=0)
        tokens.append(int(logits[0, :SLOT].argmax()))
        logits, cache = model.extend(cache, torch.tensor([tokens[-1:]]))
    assert tokens == goldens[f"{prefix}_tokens"].tolist()
