"""Who sees whom: packing, padding, caching, order, and the formula written out densely."""

import inspect
import itertools

import pytest
import torch
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn
from transformers import AutoModelForCausalLM, LlamaConfig

from vchat.model.attention import IMAGE, PAD, TEXT, attend, visible_keys
from vchat.model.cached_layout import make_cached_layout
from vchat.model.decoding import FlatDecoding, Rows, positions_in_segments
from vchat.model.flat_layout import FlatLayout, make_flat_layout, sequences_of_dialogues
from vchat.model.varlen import attend_sequences

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SLOT, POSITIONS = 128, 5
ATTENTIONS = ["mmca", "causal"]
ALL = [*ATTENTIONS, "mmca_published"]
DRAWINGS = ["tttIttItt", "Itt", "tttt", "IItIt", "ttI"]


@pytest.fixture(autouse=True, params=DEVICES)
def device(request):
    """Everything a test makes lies on this device, models included."""
    torch.set_default_device(request.param)
    yield request.param
    torch.set_default_device(None)


def textbook(query, key, value, kinds, segments, scale):
    """MMCA as two dense softmaxes over S x S scores; float[B, H, S, d] in and out."""
    heads = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(heads, dim=1) for x in (key, value))
    text, image = visible_keys(kinds, segments, queries=torch.arange(kinds.shape[1]))
    scores = query @ key.transpose(2, 3) * scale
    output = torch.zeros_like(query)
    for mask in (text[:, None], image[:, None]):
        output += scores.masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num() @ value
    return torch.where((kinds == IMAGE)[:, None, :, None], value, output)


def random_batch(heads=4, key_heads=2):
    kinds = torch.tensor(
        [
            [TEXT, IMAGE, IMAGE, TEXT, TEXT, IMAGE, TEXT, TEXT, PAD, PAD],
            [IMAGE, TEXT, IMAGE, IMAGE, TEXT, TEXT, TEXT, TEXT, IMAGE, TEXT],
        ]
    )
    segments = torch.tensor([[1, 1, 1, 1, 1, 2, 2, 2, 0, 0], [1, 1, 1, 1, 1, 1, 2, 2, 3, 3]])
    generator = torch.Generator("cpu").manual_seed(3)
    query, key, value = (
        torch.randn(2, n, 10, 8, generator=generator, device="cpu").to(kinds.device)
        for n in (heads, key_heads, key_heads)
    )
    return query, key, value, kinds, segments


def one_row(layout: FlatLayout, tensor):
    """float[B, heads, S, d] to the flat row float[1, heads, N, d]."""
    return tensor.transpose(1, 2).flatten(0, 1)[layout.order].transpose(0, 1)[None]


@pytest.mark.parametrize("key_heads", [4, 2, 1])
def test_flat_rows_equal_the_textbook(key_heads):
    query, key, value, kinds, segments = random_batch(key_heads=key_heads)
    layout = make_flat_layout(kinds, segments)
    flat = (one_row(layout, x) for x in (query, key, value))
    output, _ = attend(torch.nn.Identity(), *flat, None, scaling=0.3, layout=layout)
    expected = one_row(layout, textbook(query, key, value, kinds, segments, 0.3))
    torch.testing.assert_close(output, expected.transpose(1, 2))


def one_after_the_other(
    query, key, value, ends_q, ends_k, longest_q, longest_k, *, scale, window_size=(-1, -1), **_
):
    """What a kernel for many sequences computes, by its contract, on any device."""
    outputs = []
    for (q0, q1), (k0, k1) in zip(
        itertools.pairwise(ends_q.tolist()), itertools.pairwise(ends_k.tolist()), strict=True
    ):
        assert q1 - q0 <= longest_q
        assert k1 - k0 <= longest_k
        one = (x.transpose(0, 1)[None] for x in (query[q0:q1], key[k0:k1], value[k0:k1]))
        attended = functional.scaled_dot_product_attention(
            *one, is_causal=window_size == (-1, 0), scale=scale, enable_gqa=True
        )
        outputs.append(attended[0].transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.parametrize("key_heads", [4, 2])
def test_many_sequences_at_once_equal_the_textbook(key_heads):
    query, key, value, kinds, segments = random_batch(key_heads=key_heads)
    layout = make_flat_layout(kinds, segments)
    sequences = sequences_of_dialogues(layout.dialogues, device=kinds.device)
    q, k, v = (one_row(layout, x)[0].transpose(0, 1) for x in (query, key, value))
    n = layout.num_image
    output = attend_sequences(
        q[n:], (k[n:], v[n:]), (k[:n], v[:n]), sequences, scale=0.3, kernel=one_after_the_other
    )
    expected = one_row(layout, textbook(query, key, value, kinds, segments, 0.3))
    torch.testing.assert_close(output.transpose(0, 1), expected[0, :, n:])


def test_many_sequences_without_an_image_are_one_call():
    kinds = torch.tensor([[TEXT] * 5, [TEXT, TEXT, PAD, PAD, PAD]])
    layout = make_flat_layout(kinds, (kinds != PAD).long())
    sequences = sequences_of_dialogues(layout.dialogues, device=kinds.device)
    calls = []

    def kernel(*given, **settings):
        calls.append(settings["window_size"])
        return one_after_the_other(*given, **settings)

    q = torch.randn(7, 2, 8)
    nothing = torch.zeros(0, 2, 8)
    attend_sequences(q, (q, q), (nothing, nothing), sequences, scale=1.0, kernel=kernel)
    assert calls == [(-1, 0)]


def test_torchs_kernel_takes_what_we_give_it():
    taken = inspect.signature(varlen_attn).parameters
    names = ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"]
    assert list(taken)[:7] == names
    assert {"scale", "window_size", "enable_gqa"} <= taken.keys()


@pytest.mark.parametrize("num_new", [1, 2, 6, 10])
def test_newest_positions_equal_the_textbook(num_new):
    query, key, value, kinds, segments = random_batch()
    layout = make_cached_layout(kinds, segments, num_new=num_new)
    output, _ = attend(
        torch.nn.Identity(), query[:, :, -num_new:], key, value, None, scaling=0.3, layout=layout
    )
    expected = textbook(query, key, value, kinds, segments, 0.3).transpose(1, 2)[:, -num_new:]
    real = kinds[:, -num_new:] != PAD
    torch.testing.assert_close(output[real], expected[real])


def test_visible_is_as_drawn():
    kinds = torch.tensor([[TEXT, IMAGE, IMAGE, TEXT]])
    text, image = visible_keys(kinds, torch.ones_like(kinds), queries=torch.arange(4))
    assert text[0].int().tolist() == [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]]
    assert image[0].int().tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0]]


def test_positions_restart_at_every_segment():
    segments = torch.tensor([[1, 1, 1, 2, 2, 0], [0, 0, 1, 1, 1, 1]])
    expected = [[0, 1, 2, 0, 1, 0], [0, 0, 0, 1, 2, 3]]
    assert positions_in_segments(segments).tolist() == expected


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_without_images_it_is_the_decoders_own_attention(new_model, row, attention):
    model = new_model(attention=attention)
    ids, _ = row("t" * 20)
    plain = AutoModelForCausalLM.from_config(LlamaConfig(**model.config.decoder_config.to_dict()))
    plain.load_state_dict(model.decoder.state_dict())
    torch.testing.assert_close(model(ids).logits, plain.eval()(ids).logits)


@pytest.mark.parametrize("attention", ALL)
@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_packed_dialogues_equal_separate_ones(new_model, row, attention, padding):
    model = new_model(attention=attention)
    rows = [row(drawing, seed=i) for i, drawing in enumerate(DRAWINGS)]
    pieces = [(ids, torch.full_like(ids, i + 1)) for i, (ids, _) in enumerate(rows)]
    pad = (torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, 3, dtype=torch.long))
    pieces = {"none": pieces, "left": [pad, *pieces], "right": [*pieces, pad]}[padding]
    ids, segments = (torch.cat(parts, dim=1) for parts in zip(*pieces, strict=True))
    pixels = torch.cat([pixels for _, pixels in rows])
    packed = model(ids, pixels, segment_ids=segments).logits
    for i, (alone, pixels) in enumerate(rows):
        expected = model(alone, pixels).logits
        torch.testing.assert_close(packed[segments == i + 1], expected[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize("attention", ALL)
@pytest.mark.parametrize("cached", [False, True])
def test_left_and_right_padding_give_the_same(new_model, row, attention, cached):
    model = new_model(attention=attention)
    rows = [row(drawing, seed=i) for i, drawing in enumerate(DRAWINGS)]
    pixels = torch.cat([pixels for _, pixels in rows])
    length = max(ids.shape[1] for ids, _ in rows)
    logits = {}
    for side in ("left", "right"):
        gaps = [length - ids.shape[1] for ids, _ in rows]
        pads = [(gap, 0) if side == "left" else (0, gap) for gap in gaps]
        ids = torch.cat([pad_ids(ids, pad) for (ids, _), pad in zip(rows, pads, strict=True)])
        mask = torch.cat(
            [pad_ids(torch.ones_like(ids), pad) for (ids, _), pad in zip(rows, pads, strict=True)]
        )
        output = model(ids, pixels, attention_mask=mask, use_cache=cached)
        logits[side] = output.logits[mask.bool()]
    torch.testing.assert_close(logits["left"], logits["right"], atol=2e-5, rtol=0)


def pad_ids(ids, pad):
    return torch.nn.functional.pad(ids, pad)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_later_positions_never_change_earlier_outputs(new_model, row, attention):
    model = new_model(attention=attention)
    ids, pixels = row("ttIttIttt")
    before = model(ids, pixels).logits
    for cut in range(1, ids.shape[1]):
        changed = ids.clone()
        changed[:, cut:] = torch.where(ids[:, cut:] == SLOT, SLOT, (ids[:, cut:] + 1) % SLOT)
        num_started = -(-int((ids[:, :cut] == SLOT).sum()) // POSITIONS)
        other_pixels = torch.cat([pixels[:num_started], 255 - pixels[num_started:]])
        after = model(changed, other_pixels).logits
        torch.testing.assert_close(after[:, :cut], before[:, :cut], atol=2e-5, rtol=0)


@pytest.mark.parametrize("dtype, difference", [(torch.float32, 1e-4), (torch.bfloat16, 0.02)])
def test_an_images_hidden_states_are_the_same_in_every_dialogue(new_model, row, dtype, difference):
    model = new_model().to(dtype)
    _, pixels = row("I")
    _, others = row("III", seed=9)
    found = []
    for drawing, before in (("ttItt", 0), ("tttttttIt", 0), ("tIItIItt", 2), ("tItIt", 1)):
        ids, _ = row(drawing, seed=before + 3)
        num = drawing.count("I")
        shown = torch.cat([others[:before], pixels, others[: num - before - 1]])
        hidden = hidden_of(model, ids, shown)
        found.append(hidden[ids == SLOT][before * POSITIONS : (before + 1) * POSITIONS])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=difference, rtol=difference)


def hidden_of(model, ids, pixels):
    """The last hidden states of all positions, float[1, S, D]."""
    rows = Rows(
        embeddings=model.embed(ids, pixels),
        kinds=torch.where(ids == SLOT, IMAGE, TEXT),
        segments=torch.ones_like(ids),
        position_ids=None,
    )
    return FlatDecoding(model.decoder, skips_images=False).decode_all(rows)


@pytest.mark.parametrize("attention", ALL)
def test_token_by_token_equals_all_at_once(new_model, row, attention):
    model = new_model(attention=attention)
    ids, pixels = row("tIttIttttt")
    expected = model(ids, pixels).logits
    first = ids.shape[1] - 5
    output = model(ids[:, :first], pixels, use_cache=True)
    logits, cache = [output.logits], output.past_key_values
    for t in range(first, ids.shape[1]):
        output = model(ids[:, t : t + 1], past_key_values=cache, use_cache=True)
        logits.append(output.logits)
    torch.testing.assert_close(torch.cat(logits, dim=1), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("scores_per_block", [2**24, 64])
def test_a_new_round_with_new_images_equals_all_at_once(
    new_model, row, attention, scores_per_block, monkeypatch
):
    monkeypatch.setattr("vchat.model.cached_layout.SCORES_PER_BLOCK", scores_per_block)
    model = new_model(attention=attention)
    ids, pixels = row("tIttttItIttt")
    expected = model(ids, pixels).logits
    cut = 1 + POSITIONS + 2
    output = model(ids[:, :cut], pixels[:1], use_cache=True)
    cache = output.past_key_values
    second = model(ids[:, cut:], pixels[1:], past_key_values=cache, use_cache=True).logits
    together = torch.cat([output.logits, second], dim=1)
    torch.testing.assert_close(together, expected, atol=2e-5, rtol=0)


def test_extend_gives_the_last_positions_logits(new_model, row):
    model = new_model()
    ids, pixels = row("tIttItt")
    expected = model(ids, pixels).logits
    cut = 2 + POSITIONS
    logits, cache = model.extend(None, ids[:, :cut], pixels[:1])
    torch.testing.assert_close(logits, expected[:, cut - 1], atol=2e-5, rtol=0)
    logits, cache = model.extend(cache, ids[:, cut:], pixels[1:])
    torch.testing.assert_close(logits, expected[:, -1], atol=2e-5, rtol=0)
    assert cache.get_seq_length() == ids.shape[1]


def test_a_cropped_cache_forgets_the_newest_positions(new_model, row):
    model = new_model()
    ids, pixels = row("tIttttt")
    _, cache = model.extend(None, ids, pixels)
    cache.crop(-3)
    logits, _ = model.extend(cache, ids[:, -3:])
    torch.testing.assert_close(logits, model(ids, pixels).logits[:, -1], atol=2e-5, rtol=0)


@pytest.mark.parametrize("attention", ALL)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_floats_stay_near_float32(new_model, row, attention, dtype):
    model = new_model(attention=attention)
    ids, pixels = row("ttIttIttt")
    expected = model(ids, pixels).logits
    narrow = model.to(dtype)
    for output in (narrow(ids, pixels), narrow(ids, pixels, use_cache=True)):
        assert output.logits.dtype == dtype
        torch.testing.assert_close(output.logits.float(), expected, atol=0.2, rtol=0.05)
    output = narrow(ids[:, -1:], past_key_values=narrow(ids, pixels, use_cache=True)[1])
    assert output.logits.isfinite().all()


@pytest.mark.parametrize("attention", ALL)
def test_gradient_checkpointing_changes_no_gradient(new_model, row, attention):
    ids, pixels = row("ttIttIttt")
    labels = ids.masked_fill(ids == SLOT, -100)
    gradients = []
    for checkpointed in (False, True):
        model = new_model(attention=attention).train()
        if checkpointed:
            model.activation_checkpointing_enable()
            assert model.is_activation_checkpointing
        model(ids, pixels, labels=labels).loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_a_row_longer_than_the_sliding_window_is_an_error():
    query, key, value, kinds, segments = random_batch()
    layout = make_flat_layout(kinds, segments)
    with pytest.raises(ValueError, match=r"6 positions is longer than .* sliding window of 5"):
        attend(
            torch.nn.Identity(),
            *(one_row(layout, x) for x in (query, key, value)),
            None,
            scaling=0.3,
            layout=layout,
            sliding_window=5,
        )


@pytest.mark.parametrize("name", ["softcap", "s_aux", "position_bias"])
def test_what_mmca_does_not_define_is_an_error(name):
    query, key, value, kinds, segments = random_batch()
    layout = make_cached_layout(kinds, segments, num_new=10)
    with pytest.raises(ValueError, match=name):
        attend(
            torch.nn.Identity(), query, key, value, None, scaling=1.0, layout=layout, **{name: 1.0}
        )


def test_calling_the_decoder_alone_is_an_error(new_model, row):
    with pytest.raises(ValueError, match="call VisualChat, not its decoder"):
        new_model().decoder(row("ttt")[0])


@pytest.mark.parametrize("drawing", ["ttIttIttt", "tttt", "ItIIt"])
def test_skipping_image_rows_in_the_last_layer_changes_neither_loss_nor_gradients(
    new_model, row, drawing
):
    ids, pixels = row(drawing)
    labels = ids.masked_fill(ids == SLOT, -100)  # the text behind an image is predicted by it
    results = []
    for drops in (False, True):
        model = new_model()
        assert model._skips_images
        model._skips_images = drops
        loss = model(ids, pixels, labels=labels).loss
        results.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    for whole, dropped in zip(*results, strict=True):
        torch.testing.assert_close(dropped, whole, atol=1e-4, rtol=1e-4)


def test_the_last_layers_mlp_sees_no_image_row(new_model, row):
    model = new_model()
    sizes = []
    for layer in model.decoder.model.layers:
        layer.mlp.register_forward_hook(lambda _, args, __: sizes.append(args[0].shape[1]))
    ids, pixels = row("ttIttt")
    labels = torch.full_like(ids, -100)
    labels[:, -2:] = ids[:, -2:]
    model(ids, pixels, labels=labels)
    assert sizes == [5 + POSITIONS, 5 + POSITIONS, 5]
