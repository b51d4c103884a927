import pytest
import torch

from vchat.train.chat.generation import Sampling, next_ids

LOGITS = torch.tensor([[0.0, 3.0, 1.0, 9.0], [2.0, 1.0, 0.0, 9.0]])


def chosen(logits, sampling, *, slot_id=3, num_ids=4, num_draws=200):
    generator = torch.Generator().manual_seed(0)
    draws = [
        next_ids(logits, sampling, slot_id=slot_id, num_ids=num_ids, generator=generator)
        for _ in range(num_draws)
    ]
    return torch.stack(draws)


def test_the_slot_id_is_never_chosen():
    assert next_ids(LOGITS, Sampling(), slot_id=3, num_ids=4).tolist() == [1, 0]
    assert not (chosen(LOGITS, Sampling(temperature=5.0)) == 3).any()


def test_ids_beyond_the_tokenizer_are_never_chosen():
    assert next_ids(LOGITS, Sampling(), slot_id=1, num_ids=3).tolist() == [2, 0]


def test_a_small_top_p_is_greedy():
    draws = chosen(LOGITS, Sampling(temperature=1.0, top_p=1e-6))
    assert (draws == torch.tensor([1, 0])).all()


def test_top_p_keeps_the_fewest_ids_that_reach_it():
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    draws = chosen(logits, Sampling(temperature=1.0, top_p=0.79), slot_id=-1, num_ids=3)
    assert set(draws.flatten().tolist()) == {0, 1}
    draws = chosen(logits, Sampling(temperature=1.0, top_p=0.81), slot_id=-1, num_ids=3)
    assert set(draws.flatten().tolist()) == {0, 1, 2}


def test_sampling_follows_the_probabilities():
    logits = torch.tensor([[0.7, 0.3]]).log()
    draws = chosen(logits, Sampling(temperature=1.0), slot_id=-1, num_ids=2, num_draws=2000)
    assert (draws == 0).float().mean().item() == pytest.approx(0.7, abs=0.04)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"max_new_tokens": 0}, "max new tokens is 0, wanted at least 1"),
        ({"temperature": -1.0}, r"temperature is -1\.0, wanted 0 or more"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, r"top_p is 0\.0, wanted more than 0"),
        ({"top_p": 1.5}, r"top_p is 1\.5"),
    ],
)
def test_impossible_settings_are_an_error(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)
