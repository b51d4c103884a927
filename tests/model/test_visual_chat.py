"""The model as a whole: parts, loss, gradients, files, generation, errors."""

import pytest
import torch
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    StoppingCriteriaList,
)

from vchat.model.decoders import fit_vocabulary
from vchat.model.visual_chat import VisualChat

SLOT, POSITIONS = 128, 5
SIZES = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4}


def labels_of(ids, *, first):
    """Supervise every text position from `first` on."""
    labels = ids.masked_fill(ids == SLOT, -100)
    labels[:, :first] = -100
    return labels


def test_the_loss_is_the_sum_over_supervised_positions(new_model, row):
    model = new_model()
    ids, pixels = row("ttIttIttt")
    labels = labels_of(ids, first=8)
    logits = model(ids, pixels).logits[:, :-1].flatten(0, 1)
    expected = functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum")
    torch.testing.assert_close(model(ids, pixels, labels=labels).loss, expected)


def test_the_first_position_of_a_packed_dialogue_is_never_predicted(new_model, row):
    model = new_model()
    ids, _ = row("tttttt")
    segments = torch.tensor([[1, 1, 1, 2, 2, 2]])
    together = model(ids, segment_ids=segments, labels=ids).loss
    apart = sum(model(part, labels=part).loss for part in ids.split(3, dim=1))
    torch.testing.assert_close(together, apart)


def test_nothing_supervised_gives_zero_and_zero_gradients(new_model, row):
    model = new_model()
    ids, pixels = row("ttItt")
    loss = model(ids, pixels, labels=torch.full_like(ids, -100)).loss
    loss.backward()
    assert loss == 0.0
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


@pytest.mark.parametrize("attention", ["mmca", "causal"])
def test_a_batch_of_padding_gives_zero_and_zero_gradients(new_model, row, attention):
    model = new_model(attention=attention)
    ids, _ = row("tttt")
    loss = model(ids, segment_ids=torch.zeros_like(ids), labels=torch.full_like(ids, -100)).loss
    loss.backward()
    assert loss == 0.0
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


@pytest.mark.parametrize("pixels", [None, torch.zeros(0, 3, 16, 16, dtype=torch.uint8)])
@pytest.mark.parametrize("frozen_tower", [False, True])
def test_a_batch_without_images_gives_every_trained_parameter_a_gradient(
    new_model, row, pixels, frozen_tower
):
    model = new_model().train()
    model.tower.requires_grad_(not frozen_tower)
    ids, _ = row("tttttt")
    model(ids, pixels, labels=ids).loss.backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


def test_the_blank_image_changes_no_loss(new_model, row):
    model = new_model()
    ids, _ = row("tttttt")
    logits = model(ids).logits[0, :-1]
    expected = functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
    torch.testing.assert_close(model(ids, labels=ids).loss, expected)


@pytest.mark.parametrize("attention", ["mmca", "mmca_published", "causal"])
@pytest.mark.parametrize("kinds", ["ttIttIttt", "ttt", "ttttttttttttttttttt"])
def test_each_loss_says_which_label_it_belongs_to(new_model, row, attention, kinds):
    model = new_model(attention=attention)
    ids, pixels = row(kinds)
    length = ids.shape[1]
    ids = torch.cat([ids, ids])
    pixels = None if pixels is None else torch.cat([pixels, pixels])
    segments = torch.ones_like(ids)
    segments[1, length // 2 :] = 2  # and the first position of a dialogue has no loss
    segments[1, -1] = 0
    labels = labels_of(ids, first=1)
    labels[0, ::2] = -100
    output = model(ids, pixels, segment_ids=segments, labels=labels)
    row_of, column = output.target_indices.unbind(dim=1)
    logits = model(ids, pixels, segment_ids=segments).logits[row_of, column - 1]
    expected = functional.cross_entropy(logits, labels[row_of, column], reduction="none")
    torch.testing.assert_close(output.target_losses, expected)
    has_loss = (labels[:, 1:] != -100) & (segments[:, 1:] == segments[:, :-1])
    wanted = torch.stack(
        [one + add for one, add in zip(has_loss.nonzero(as_tuple=True), (0, 1), strict=True)]
    )
    assert output.target_indices.tolist() == wanted.T.tolist()


def test_a_frozen_tower_runs_without_a_graph(new_model, row):
    model = new_model()
    model.tower.requires_grad_(False)
    _, pixels = row("I")
    assert not model.tower(pixels).requires_grad
    model.tower.requires_grad_(True)
    assert model.tower(pixels).requires_grad


def test_bytes_and_normalised_floats_give_the_same(new_model, row):
    model = new_model()
    ids, pixels = row("ItIt")
    mean, std = (torch.tensor(x)[:, None, None] for x in (model.tower.mean, model.tower.std))
    floats = (pixels / 255.0 - mean) / std
    torch.testing.assert_close(model(ids, floats).logits, model(ids, pixels).logits)


def test_images_fill_their_slots_in_order(new_model, row):
    model = new_model()
    ids, pixels = row("IttI")
    embeddings = model.embed(ids, pixels)
    features = model.projection(model.tower(pixels))
    torch.testing.assert_close(embeddings[0, :POSITIONS], features[0])
    torch.testing.assert_close(embeddings[0, -POSITIONS:], features[1])


@pytest.mark.parametrize("num_images", [0, 1, 3])
def test_too_few_or_too_many_images_name_both_counts(new_model, row, num_images):
    ids, _ = row("tIttI")
    pixels = torch.zeros(num_images, 3, 16, 16, dtype=torch.uint8)
    message = f"10 image positions, but {num_images} images .* give {5 * num_images} image features"
    with pytest.raises(ValueError, match=message):
        new_model()(ids, pixels)


def test_images_of_another_size_are_an_error(new_model, row):
    ids, _ = row("tI")
    with pytest.raises(ValueError, match=r"\[N, 3, 16, 16\], got \[1, 3, 16, 24\]"):
        new_model()(ids, torch.zeros(1, 3, 16, 24, dtype=torch.uint8))


@pytest.mark.parametrize("attention", ["mmca", "causal"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_saved_model_gives_the_same_bits(new_model, row, tmp_path, attention, tied):
    model = new_model(attention=attention, tie_word_embeddings=tied)
    ids, pixels = row("ttIttIttt")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    loaded = VisualChat.from_pretrained(tmp_path).eval()
    assert loaded.config.attention == attention
    heads = loaded.get_output_embeddings().weight, loaded.get_input_embeddings().weight
    assert (heads[0] is heads[1]) == tied
    assert torch.equal(loaded(ids, pixels).logits, model(ids, pixels).logits)


@pytest.mark.parametrize("projection, positions", [("vit", 5), ("perceiver", 256)])
def test_every_projection_trains_and_is_saved(tmp_path, projection, positions):
    decoder = new_decoder(hidden_size=128)
    model = VisualChat.from_parts(
        tower=new_tower(), decoder=decoder, image_token_id=50, num_ids=51, projection=projection
    ).eval()
    assert model.config.positions_per_image == positions
    ids = torch.tensor([[1, *[50] * positions, 2, 3]])
    pixels = torch.full((1, 3, 16, 16), 7, dtype=torch.uint8)
    labels = torch.where(ids == 3, 3, -100)
    for batch in ((ids, pixels, labels), (ids[:, -2:], None, labels[:, -2:])):
        model.zero_grad()
        model(batch[0], batch[1], labels=batch[2]).loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
    model.save_pretrained(tmp_path)
    loaded = VisualChat.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(ids, pixels).logits, model(ids, pixels).logits)


def test_from_parts_keeps_the_weights_of_the_parts():
    tower, decoder = new_tower(), new_decoder()
    before = {k: v.clone() for part in (tower, decoder) for k, v in part.state_dict().items()}
    VisualChat.from_parts(tower=tower, decoder=decoder, image_token_id=50, num_ids=51)
    after = {**tower.state_dict(), **decoder.state_dict()}
    for key in before.keys() & after.keys():
        kept = after[key][: len(before[key])]
        torch.testing.assert_close(kept, before[key], msg=key)


def new_tower():
    return CLIPVisionModel(
        CLIPVisionConfig(**SIZES, num_hidden_layers=1, image_size=16, patch_size=8)
    )


def new_decoder(**settings):
    config = LlamaConfig(**{**SIZES, "num_hidden_layers": 1, "vocab_size": 50, **settings})
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("tied", [False, True])
def test_added_rows_start_at_the_mean_of_the_others(tied):
    decoder = new_decoder(tie_word_embeddings=tied)
    tables = decoder.get_input_embeddings(), decoder.get_output_embeddings()
    means = [table.weight.detach().mean(dim=0) for table in tables]
    fit_vocabulary(decoder, num_ids=53, image_token_id=52)
    tables = decoder.get_input_embeddings(), decoder.get_output_embeddings()
    for table, mean in zip(tables, means, strict=True):
        assert table.weight.shape == (53, 32)
        torch.testing.assert_close(table.weight[50:], mean.expand(3, -1))


def test_a_slot_id_beyond_the_tokenizer_is_an_error():
    with pytest.raises(ValueError, match="from 0 to 50, got 51"):
        fit_vocabulary(new_decoder(), num_ids=51, image_token_id=51)


def test_a_decoder_without_the_attention_interface_is_an_error():
    bloom = AutoModelForCausalLM.from_config(BloomConfig(vocab_size=50, hidden_size=32, n_layer=1))
    with pytest.raises(ValueError, match=r"'bloom' cannot be used: BloomForCausalLM"):
        VisualChat.from_parts(tower=new_tower(), decoder=bloom, image_token_id=50, num_ids=51)


def test_generation_equals_choosing_the_best_token_step_by_step(new_model, row):
    model = new_model()
    ids, pixels = row("ttIttIttt")
    generated = model.generate(ids, pixels, max_new_tokens=6, do_sample=False, eos_token_id=None)
    expected = ids
    for _ in range(6):
        logits = model(expected, pixels).logits[0, -1]
        logits[SLOT] = -torch.inf
        expected = torch.cat([expected, logits.argmax()[None, None]], dim=1)
    assert generated.tolist() == expected.tolist()


def test_batched_generation_equals_one_by_one(new_model, row):
    model = new_model()
    rows = [row("ttIttItt", seed=1), row("tttt", seed=2), row("Itt", seed=3)]
    length = max(ids.shape[1] for ids, _ in rows)
    padded = torch.cat([functional.pad(ids, (length - ids.shape[1], 0)) for ids, _ in rows])
    mask = torch.cat(
        [functional.pad(torch.ones_like(i), (length - i.shape[1], 0)) for i, _ in rows]
    )
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    together = model.generate(
        padded, torch.cat([p for _, p in rows]), attention_mask=mask, **options
    )
    for generated, (ids, pixels) in zip(together, rows, strict=True):
        alone = model.generate(ids, pixels, **options)
        assert generated[-6:].tolist() == alone[0, -6:].tolist()


def test_the_slot_id_is_never_generated(new_model, row):
    model = new_model()
    ids, pixels = row("ttItt")
    with torch.no_grad():
        model.get_output_embeddings().weight[SLOT] = 100.0
    generated = model.generate(ids, pixels, max_new_tokens=4, do_sample=True, eos_token_id=None)
    assert SLOT not in generated[0, -4:].tolist()


def test_beams_of_prompts_with_images_are_scored_as_without_a_cache(new_model, row):
    model = new_model()
    ids, pixels = row("ttItIt")
    options = {"max_new_tokens": 5, "num_beams": 3, "do_sample": False, "eos_token_id": None}
    output = model.generate(
        ids, pixels, return_dict_in_generate=True, output_scores=True, **options
    )
    logits = model(output.sequences, pixels).logits[0].log_softmax(-1)
    start = ids.shape[1]
    chosen = [
        logits[t - 1, output.sequences[0, t]] for t in range(start, output.sequences.shape[1])
    ]
    torch.testing.assert_close(output.sequences_scores[0], sum(chosen) / 5, atol=1e-4, rtol=0)


def left_padded(rows):
    """Ids, mask and pixels of several prompts as one batch."""
    length = max(ids.shape[1] for ids, _ in rows)
    pads = [(length - ids.shape[1], 0) for ids, _ in rows]
    ids = torch.cat([functional.pad(i, pad) for (i, _), pad in zip(rows, pads, strict=True)])
    mask = torch.cat(
        [functional.pad(torch.ones_like(i), pad) for (i, _), pad in zip(rows, pads, strict=True)]
    )
    return ids, mask, torch.cat([pixels for _, pixels in rows])


PROMPTS = ("ttIttItt", "tttt", "Itt", "tIIItIt")


@pytest.mark.parametrize("attention", ["mmca", "causal", "mmca_published"])
def test_beams_of_prompts_with_different_numbers_of_images_equal_one_by_one(
    new_model, row, attention
):
    model = new_model(attention=attention)
    rows = [row(drawing, seed=i) for i, drawing in enumerate(PROMPTS)]
    ids, mask, pixels = left_padded(rows)
    options = {"max_new_tokens": 5, "num_beams": 3, "do_sample": False, "eos_token_id": None}
    together = model.generate(ids, pixels, attention_mask=mask, **options)
    for generated, (one, shown) in zip(together, rows, strict=True):
        alone = model.generate(one, shown, **options)
        assert generated[-5:].tolist() == alone[0, -5:].tolist()


def test_sampling_depends_on_the_seed_and_stays_within_top_k(new_model, row):
    model = new_model()
    ids, pixels = row("ttItt")
    options = {"max_new_tokens": 12, "do_sample": True, "top_k": 3, "eos_token_id": None}
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(model.generate(ids, pixels, **options))
    assert drawn[0].tolist() == drawn[1].tolist() != drawn[2].tolist()
    logits = model(drawn[0], pixels).logits[0].index_fill(-1, torch.tensor(SLOT), -torch.inf)
    for place in range(ids.shape[1], drawn[0].shape[1]):
        assert drawn[0][0, place] in logits[place - 1].topk(3).indices


class Received:
    """A streamer that keeps what it is given."""

    def __init__(self):
        self.pieces, self.ended = [], False

    def put(self, value):
        self.pieces.append(value.flatten().tolist())

    def end(self):
        self.ended = True


def test_a_streamer_gets_every_token_as_it_comes(new_model, row):
    model = new_model()
    ids, pixels = row("ttItt")
    received = Received()
    generated = model.generate(
        ids, pixels, max_new_tokens=4, do_sample=False, eos_token_id=None, streamer=received
    )
    new = generated[0, ids.shape[1] :].tolist()
    assert received.pieces[-4:] == [[one] for one in new]
    assert received.ended


def test_generation_stops_where_a_criterion_says(new_model, row):
    model = new_model()
    ids, pixels = row("ttItt")
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    whole = model.generate(ids, pixels, **options)[0, ids.shape[1] :].tolist()

    def third(found, scores, **_):
        return torch.full((len(found),), found.shape[1] == ids.shape[1] + 3)

    criteria = StoppingCriteriaList([third])
    stopped = model.generate(ids, pixels, stopping_criteria=criteria, **options)
    assert stopped[0, ids.shape[1] :].tolist() == whole[:3]
    ended = model.generate(ids, pixels, **options | {"eos_token_id": whole[1]})
    last = whole.index(whole[1]) + 1
    assert ended[0, ids.shape[1] :].tolist() == whole[:last]


def test_generating_without_a_cache_is_refused(new_model, row):
    ids, pixels = row("tI")
    with pytest.raises(ValueError, match="use_cache"):
        new_model().generate(ids, pixels, use_cache=False)


def test_labels_with_a_cache_are_an_error(new_model, row):
    ids, _ = row("tt")
    with pytest.raises(ValueError, match="labels and a cache"):
        new_model()(ids, labels=ids, use_cache=True)
