"""Keys and values of an image, computed once: in any dialogue they are what its pixels give."""

import pytest
import torch

from vchat.model.image_states import find_key_rotation

SLOT, POSITIONS = 128, 5


def cut_after(ids, *, images):
    """How many ids come before the second half: up to a text id behind so many images."""
    return int((ids[0] == SLOT).nonzero()[images * POSITIONS - 1, 0]) + 2


def states_of(model, pixels):
    return [model.compute_image_states(one[None], num_positions=POSITIONS) for one in pixels]


@pytest.mark.parametrize("drawing", ["tIttItt", "IItt", "It", "ttttIIItIt"])
def test_known_images_give_the_logits_of_their_pixels(new_model, row, drawing):
    model = new_model()
    ids, pixels = row(drawing)
    logits, cache = model.extend(None, ids, images=states_of(model, pixels))
    torch.testing.assert_close(logits, model(ids, pixels).logits[:, -1], atol=2e-5, rtol=0)
    assert cache.get_seq_length() == ids.shape[1]


def test_rounds_with_known_and_unknown_images_equal_all_at_once(new_model, row):
    model = new_model()
    ids, pixels = row("tIttttItIttt")
    cut, later = cut_after(ids, images=1), cut_after(ids, images=3)
    _, cache = model.extend(None, ids[:, :cut], images=states_of(model, pixels[:1]))
    _, cache = model.extend(cache, ids[:, cut:later], pixels[1:])
    logits, cache = model.extend(cache, ids[:, later:])
    torch.testing.assert_close(logits, model(ids, pixels).logits[:, -1], atol=2e-5, rtol=0)


def test_text_and_new_images_behind_known_ones_see_what_stands_before_them(new_model, row):
    model = new_model()
    ids, pixels = row("tIIttItt")
    cut = cut_after(ids, images=2)
    _, cache = model.extend(None, ids[:, :cut], images=states_of(model, pixels[:2]))
    again = model(ids[:, cut:], pixels[2:], past_key_values=cache, use_cache=True).logits
    expected = model(ids, pixels).logits[:, cut:]
    torch.testing.assert_close(again, expected, atol=2e-5, rtol=0)


def test_an_image_gives_the_same_bits_beside_whatever_is_computed(new_model, row):
    model = new_model()
    _, pixels = row("II")
    alone, again = (states_of(model, pixels[:1])[0] for _ in range(2))
    assert all(map(torch.equal, alone.keys, again.keys))
    assert all(map(torch.equal, alone.values, again.values))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_known_images_in_narrow_floats_stay_near_float32(new_model, row, dtype):
    model = new_model()
    ids, pixels = row("ttIttIttt")
    expected = model(ids, pixels).logits[:, -1]
    narrow = model.to(dtype)
    logits, _ = narrow.extend(None, ids, images=states_of(narrow, pixels))
    torch.testing.assert_close(logits.float(), expected, atol=0.2, rtol=0.05)


@pytest.mark.parametrize("attention", ["causal", "mmca_published"])
def test_images_that_see_their_dialogue_are_not_reused(new_model, attention):
    assert not new_model(attention=attention).reuses_images


def test_keys_whose_rotation_is_not_understood_are_not_reused(new_model, monkeypatch):
    model = new_model()
    rotary = model.decoder.model.rotary_emb
    forward = rotary.forward
    squared = lambda x, position_ids: forward(x, position_ids=position_ids**2)  # noqa: E731
    monkeypatch.setattr(rotary, "forward", squared)  # the distance alone tells nothing any more
    assert find_key_rotation(model.decoder) is None


def test_a_frequency_that_changes_with_the_length_is_not_reused(new_model):
    scaled = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    assert not new_model(rope_parameters=scaled).reuses_images


def test_too_few_known_images_name_both_counts_and_leave_the_cache(new_model, row):
    model = new_model()
    ids, pixels = row("tItIt")
    _, cache = model.extend(None, ids[:, :1])
    message = "10 image positions, but the 1 images that are given take 5"
    with pytest.raises(ValueError, match=message):
        model.extend(cache, ids[:, 1:], images=states_of(model, pixels[:1]))
    assert cache.get_seq_length() == 1


def test_known_images_in_a_row_that_ends_in_an_image_are_an_error(new_model, row):
    model = new_model()
    ids, pixels = row("tI")
    with pytest.raises(ValueError, match="ends in text"):
        model.extend(None, ids, images=states_of(model, pixels))
