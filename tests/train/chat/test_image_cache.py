"""Images are computed once, whichever dialogue shows them, and the memory for them is bounded."""

import pytest
import torch

from vchat.train.chat.generation import Sampling
from vchat.train.chat.image_cache import ImageStateCache
from vchat.train.chat.session import ChatSession
from vchat_testing.toy_chat import POSITIONS, toy_chat_model, toy_picture


@pytest.fixture
def chat_model(tmp_path):
    torch.set_num_threads(1)
    return toy_chat_model(tmp_path)


def session_of(chat_model):
    return ChatSession(chat_model, sampling=Sampling(max_new_tokens=8))


def count_images(monkeypatch, chat_model):
    """A list that grows by the number of images that go through the tower."""
    counts = []
    chat_model.model.tower.register_forward_hook(lambda _, args, __: counts.append(len(args[0])))
    return counts


def test_an_image_shown_in_three_dialogues_goes_through_the_tower_once(chat_model, monkeypatch):
    counts = count_images(monkeypatch, chat_model)
    for question in ("What?", "Where?", "Who?"):
        list(session_of(chat_model).ask(question, images=[toy_picture(0), toy_picture(1)]))
    assert counts == [1, 1]


def test_answers_about_known_images_are_those_about_new_ones(tmp_path, chat_model):
    list(session_of(chat_model).ask("First?", images=[toy_picture(1), toy_picture(0)]))
    forgetful = toy_chat_model(tmp_path)
    forgetful.image_cache.max_bytes = 0
    for number in range(4):
        images = [toy_picture(number % 2), toy_picture(2)]
        known, new = (
            "".join(session_of(one).ask(f"Question {number}?", images=images))
            for one in (chat_model, forgetful)
        )
        assert known == new
    assert len(forgetful.image_cache) == 0


def test_the_cache_holds_the_most_recent_images_within_its_bytes(chat_model, monkeypatch):
    model = chat_model.model
    one_image = model.compute_image_states(toy_picture(0)[None], num_positions=POSITIONS).size_bytes
    cache = ImageStateCache(max_bytes=2 * one_image)
    counts = count_images(monkeypatch, chat_model)
    for number in (0, 1, 0, 2, 0, 1):
        cache.states(model, toy_picture(number), num_positions=POSITIONS)
        assert cache.size_bytes <= 2 * one_image
    assert len(counts) == 4  # 0, 1, 2, and 1 again: it was used longest ago when 2 came
    assert len(cache) == 2


def test_under_causal_attention_images_go_with_their_dialogue(tmp_path, monkeypatch):
    chat_model = toy_chat_model(tmp_path, attention="causal")
    counts = count_images(monkeypatch, chat_model)
    for question in ("What?", "Where?"):
        list(session_of(chat_model).ask(question, images=[toy_picture(0)]))
    assert counts == [1, 1]
    assert len(chat_model.image_cache) == 0
