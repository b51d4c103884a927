import itertools
from dataclasses import replace

import pytest
import torch

from vchat.shards.text.template import TextRound
from vchat.train.chat.generation import Sampling
from vchat.train.chat.session import ChatSession, EndReason, TextStream
from vchat_testing.toy_chat import POSITIONS, toy_chat_model, toy_picture


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    return toy_chat_model(tmp_path_factory.mktemp("chat"))


def session_of(chat_model, **settings):
    return ChatSession(chat_model, sampling=Sampling(**{"max_new_tokens": 8} | settings))


def say_these(monkeypatch, chat_model, answers):
    """Make the model say these texts, each followed by the end token, whatever it is asked."""
    tokenizer = chat_model.tokenizer
    said: list[int] = []
    for answer in answers:
        parts = chat_model.template.round("", answer, num_images=0, first_image=1)
        encoded = tokenizer.encode(parts)
        said += encoded.ids[encoded.supervised].tolist()
    said_in_turn = iter(said)
    monkeypatch.setattr(
        "vchat.train.chat.session.next_ids", lambda *_, **__: torch.tensor([next(said_in_turn)])
    )


def training_ids(chat_model, rounds):
    parts = chat_model.template.dialogue(rounds)
    return chat_model.prompt_ids(parts, inputs=[1] * sum(one.num_images for one in rounds))


SHAPES = (None, "llama_3", "qwen_2_5", "mistral")
ROUNDS = [
    TextRound(num_images=2, question="What color is the square?", answer="The square is red."),
    TextRound(num_images=0, question="<image> </s> two?", answer="  three\n</s> four"),
    TextRound(num_images=1, question="How many circles are there?", answer="\u00e9\U0001f600"),
]
INTERLEAVED = TextRound(num_images=2, question="Is  as  ?", answer="Yes.", places=(3, 7))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_chat_feeds_exactly_the_ids_of_the_same_dialogue_in_training(
    tmp_path, monkeypatch, shape
):
    chat_model = toy_chat_model(tmp_path, shape=shape)
    rounds = [*ROUNDS, INTERLEAVED]
    if shape == "llama_3":
        rounds = [replace(one, answer=one.answer.strip()) for one in rounds]
    say_these(monkeypatch, chat_model, [one.answer for one in rounds])
    session = session_of(chat_model, max_new_tokens=100)
    pictures = iter([toy_picture(i) for i in range(5)])
    for number, one in enumerate(rounds, start=1):
        images = list(itertools.islice(pictures, one.num_images))
        text = "".join(session.ask(one.question, images=images, places=one.places))
        assert text == one.answer
        assert session.ids + session.pending_ids == training_ids(chat_model, rounds[:number])
    assert [one.end_reason for one in session.rounds] == [EndReason.BY_MODEL] * 4
    assert session.num_images == 5


@pytest.mark.parametrize("attention", ["mmca", "causal"])
def test_logits_with_the_cache_equal_those_of_encoding_everything_again(tmp_path, attention):
    chat_model = toy_chat_model(tmp_path, attention=attention)
    session = session_of(chat_model)
    seen = []
    extend = session._extend
    session._extend = lambda *fed: seen.append(extend(*fed)) or seen[-1]
    pictures = [toy_picture(i) for i in range(3)]
    for question, images in (("One?", pictures[:2]), ("Two?", []), ("Three?", pictures[2:])):
        list(session.ask(question, images=images))
        with torch.no_grad():
            whole = chat_model.model(
                torch.tensor([session.ids]), torch.stack(pictures[: session.num_images])
            )
        torch.testing.assert_close(seen[-1], whole.logits[:, -1], atol=2e-4, rtol=1e-4)


def test_a_new_round_feeds_only_its_own_ids(chat_model, monkeypatch):
    session = session_of(chat_model)
    list(session.ask("What?", images=[toy_picture(0)]))
    before = len(session.ids)
    lengths = []
    extend = type(chat_model.model).extend
    monkeypatch.setattr(
        type(chat_model.model),
        "extend",
        lambda model, cache, ids, *shown: (
            lengths.append(ids.shape[1]) or extend(model, cache, ids, *shown)
        ),
    )
    list(session.ask("And now?"))
    assert lengths[0] == len(session.ids) - before - sum(lengths[1:])
    assert set(lengths[1:]) <= {1}
    assert lengths[0] < before


def test_generated_ids_stay_in_the_cache_as_generated(chat_model, monkeypatch):
    letters = [
        i for i in range(chat_model.tokenizer.num_ids) if chat_model.tokenizer.decode([i]) == "t"
    ]
    word = [*letters, *(i for i in range(400) if chat_model.tokenizer.decode([i]) == "wo")]
    assert len(word) == 2  # encoding "two" gives other ids
    said = iter([*word, chat_model.tokenizer.end_id])
    monkeypatch.setattr(
        "vchat.train.chat.session.next_ids", lambda *_, **__: torch.tensor([next(said)])
    )
    session = session_of(chat_model)
    assert "".join(session.ask("How many?")) == "two"
    assert (session.ids + session.pending_ids)[-3:] == [*word, chat_model.tokenizer.end_id]


def test_an_answer_cut_by_its_limit_is_still_closed_by_an_end_token(chat_model):
    session = session_of(chat_model, max_new_tokens=3)
    list(session.ask("What?"))
    (round_,) = session.rounds
    assert (round_.end_reason, round_.num_tokens) == (EndReason.TOO_LONG, 3)
    assert session.pending_ids[-1] == chat_model.tokenizer.end_id
    assert (
        len(session.pending_ids) == 2
    )  # the third token needs no forward pass until the next round
    length = len(session.ids)
    list(session.ask("More?"))
    assert session.ids[length + 1] == chat_model.tokenizer.end_id


def test_stopping_keeps_the_partial_answer_and_the_chat_goes_on(chat_model):
    session = session_of(chat_model, max_new_tokens=50)
    whole = session_of(chat_model, max_new_tokens=50)
    list(whole.ask("What?"))
    pieces = session.ask("What?")
    next(pieces)
    next(pieces)
    pieces.close()
    (round_,) = session.rounds
    assert round_.end_reason is EndReason.STOPPED
    assert round_.num_tokens == 2
    assert whole.rounds[0].answer.startswith(round_.answer.rstrip("\ufffd"))
    assert session.pending_ids[-1] == chat_model.tokenizer.end_id
    assert list(session.ask("Go on?"))


def test_an_interrupted_question_leaves_the_dialogue_as_it_was(chat_model, monkeypatch):
    session, undisturbed = session_of(chat_model), session_of(chat_model)
    for one in (session, undisturbed):
        list(one.ask("What?", images=[toy_picture(0)]))
    before = (list(session.ids), list(session.pending_ids), session.num_images)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(chat_model.model), "extend", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(session.ask("Two?", images=[toy_picture(1)]))
    assert (session.ids, session.pending_ids, session.num_images) == before
    assert len(session.rounds) == 1
    answers = ["".join(one.ask("Two?", images=[toy_picture(1)])) for one in (session, undisturbed)]
    assert answers[0] == answers[1]
    assert session.ids == undisturbed.ids


def test_added_rounds_are_fed_with_the_next_question_as_in_training(chat_model, monkeypatch):
    pictures = [toy_picture(i) for i in range(3)]
    recalled = session_of(chat_model, max_new_tokens=100)
    for one, images in zip(ROUNDS[:2], (pictures[:2], []), strict=True):
        recalled.add_round(one.question, one.answer, images=images)
    assert recalled.ids == []
    assert recalled.pending_ids == training_ids(chat_model, ROUNDS[:2])
    assert (recalled.num_images, len(recalled.rounds)) == (2, 2)

    say_these(monkeypatch, chat_model, [ROUNDS[2].answer])
    assert "".join(recalled.ask(ROUNDS[2].question, images=pictures[2:])) == ROUNDS[2].answer
    assert recalled.ids + recalled.pending_ids == training_ids(chat_model, ROUNDS)
    assert recalled.num_images == 3


def test_a_dialogue_of_added_rounds_continues_as_if_the_model_had_answered_them(chat_model):
    held = session_of(chat_model, max_new_tokens=30)
    answer = "".join(held.ask("What?", images=[toy_picture(0)]))
    recalled = session_of(chat_model, max_new_tokens=30)
    recalled.add_round("What?", answer, images=[toy_picture(0)])
    replies = ["".join(one.ask("And?", images=[toy_picture(1)])) for one in (held, recalled)]
    if held.ids == recalled.ids:  # what was generated is what its text encodes to
        assert replies[0] == replies[1]
    assert recalled.rounds[0].num_tokens > 0


def test_too_many_positions_are_refused_at_once_and_change_nothing(tmp_path):
    chat_model = toy_chat_model(tmp_path, max_positions=160)
    session = session_of(chat_model)
    list(session.ask("What?", images=[toy_picture(0)]))
    ids = list(session.ids)
    with pytest.raises(
        ValueError, match=r"this round takes \d+ positions .* of the model's 160 are"
    ):
        session.ask("And these?", images=[toy_picture(i) for i in range(20)])
    assert session.ids == ids
    assert session.num_images == 1
    session.clear()
    assert list(session.ask("What?"))


def test_an_answer_stops_where_the_positions_end(tmp_path):
    chat_model = toy_chat_model(tmp_path, max_positions=100)
    session = session_of(chat_model, max_new_tokens=1000)
    list(session.ask("What?"))
    assert session.rounds[0].end_reason is EndReason.OUT_OF_POSITIONS
    assert len(session.ids) == 100


def test_clearing_makes_a_session_like_new(chat_model):
    session = session_of(chat_model)
    first = "".join(session.ask("What?", images=[toy_picture(0)]))
    list(session.ask("Else?", images=[toy_picture(1)]))
    session.clear()
    assert (session.rounds, session.ids, session.num_images) == ([], [], 0)
    assert "".join(session.ask("What?", images=[toy_picture(0)])) == first


def test_images_and_their_order_matter(chat_model):
    def logits(*numbers):
        session = session_of(chat_model)
        images = [toy_picture(i) for i in numbers]
        return session._extend(session._prompt("Which?", None, images=images), images)

    assert not torch.allclose(logits(0, 1), logits(1, 0), atol=1e-3)
    torch.testing.assert_close(logits(0, 1), logits(0, 1))


def test_equal_seeds_sample_equal_answers(chat_model):
    sampling = Sampling(max_new_tokens=12, temperature=1.5)

    def answer(seed):
        return "".join(ChatSession(chat_model, sampling=sampling, seed=seed).ask("What?"))

    assert answer(1) == answer(1)
    assert answer(1) != answer(2)


def test_without_a_seed_every_session_and_every_request_samples_afresh(chat_model):
    sampling = Sampling(max_new_tokens=12, temperature=1.5)
    sessions = [ChatSession(chat_model, sampling=sampling) for _ in range(4)]
    assert len({"".join(session.ask("What?")) for session in sessions}) > 1
    states = set()
    for _ in range(4):
        sessions[0].set_seed(None)
        states.add(sessions[0]._generator.initial_seed())
    assert len(states) == 4


@pytest.mark.parametrize("end", ["<|eot_id|>", "<|end_of_text|>"])
def test_an_answer_stops_at_every_end_token_and_shows_none(tmp_path, monkeypatch, end):
    chat_model = toy_chat_model(tmp_path, shape="llama_3")
    ids = {chat_model.tokenizer.decode([one]): one for one in chat_model.tokenizer.special_ids}
    said = iter([70, 70, ids[end]])
    monkeypatch.setattr(
        "vchat.train.chat.session.next_ids", lambda *_, **__: torch.tensor([next(said)])
    )
    session = session_of(chat_model)
    assert "".join(session.ask("What?")) == 2 * chat_model.tokenizer.decode([70])
    (round_,) = session.rounds
    assert (round_.end_reason, round_.num_tokens) == (EndReason.BY_MODEL, 2)
    assert session.pending_ids[-1] == ids["<|eot_id|>"]  # what follows is as it was trained


def test_each_image_takes_its_positions(chat_model):
    session = session_of(chat_model)
    list(session.ask("What?", images=[toy_picture(0), toy_picture(1)]))
    assert session.ids.count(chat_model.tokenizer.image_id) == 2 * POSITIONS


@pytest.mark.parametrize(
    "text", ["red square", "na\u00efve \u4f60\u597d", "\U0001f600!", "a\ufffd", ""]
)
def test_streamed_pieces_join_to_the_text_and_hold_no_half_character(chat_model, text):
    parts = chat_model.template.round("", text, num_images=0, first_image=1)
    encoded = chat_model.tokenizer.encode(parts)
    stream = TextStream(chat_model.tokenizer)
    pieces = [stream.add(int(i)) for i in encoded.ids[encoded.supervised][:-1]]
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) + stream.flush() == text
