"""Questions are answered in batches as they are one by one."""

import pytest
import torch

from vchat.train.chat.chat_model import load_chat_model
from vchat.train.chat.generation import Sampling
from vchat.train.chat.session import ChatSession
from vchat.train.evaluation.answering import Batching, answer_questions, equal_length_batches
from vchat.train.evaluation.questions import read_questions
from vchat_testing.toy_chat import save_toy_checkpoint, toy_chat_model


def test_batched_answers_equal_asking_one_by_one_in_a_chat(chat_model, questions_file):
    questions = read_questions(questions_file)
    batched = answer_questions(chat_model, questions, max_new_tokens=10, batching=Batching(rows=8))
    assert [one.question for one in batched] == questions
    for question, one in zip(questions, batched, strict=True):
        session = ChatSession(chat_model, sampling=Sampling(max_new_tokens=10))
        images = [chat_model.decode_picture(path.read_bytes()) for path in question.images]
        assert "".join(session.ask(question.question, images=images)) == one.answer
    assert len({one.answer for one in batched}) > 5


def test_batching_never_changes_an_answer(chat_model, questions_file):
    questions = read_questions(questions_file)
    one_by_one, few, many = (
        answer_questions(chat_model, questions, max_new_tokens=10, batching=batching)
        for batching in (Batching(rows=1), Batching(rows=3), Batching(rows=100, positions=1 << 20))
    )
    assert one_by_one == few == many


def test_an_answer_ends_at_its_end_token_while_others_of_the_batch_go_on(
    chat_model, questions_file, monkeypatch
):
    questions = [q for q in read_questions(questions_file) if len(q.images) == 1][:2] * 2
    end, letter = chat_model.tokenizer.end_id, 70
    steps = iter([[letter, letter], [end, letter], [letter, letter], [letter, end]] * 2)
    monkeypatch.setattr(
        "vchat.train.evaluation.answering.next_ids", lambda *_, **__: torch.tensor(next(steps))
    )
    same = [questions[0], questions[0]]
    short, long = answer_questions(chat_model, same, max_new_tokens=9, batching=Batching())
    assert long.answer == short.answer * 3
    assert short.ended
    assert long.ended


@pytest.mark.parametrize("end", ["<|eot_id|>", "<|end_of_text|>", "<|end_header_id|>"])
def test_a_chat_template_s_answer_ends_at_any_end_token_and_shows_none(
    questions_file, tmp_path, monkeypatch, end
):
    made = toy_chat_model(tmp_path, shape="llama_3")
    ids = {made.tokenizer.decode([one]): one for one in range(made.tokenizer.num_ids)}
    made.model.generation_config.eos_token_id = [70, ids["<|end_header_id|>"]]  # 70 is no special
    loaded, _ = load_chat_model(save_toy_checkpoint(made, tmp_path / "out"), system="Be brief.")
    assert (loaded.template.name, loaded.template.system) == ("chat", "Be brief.")
    steps = iter([[70], [70], [ids[end]]])
    monkeypatch.setattr(
        "vchat.train.evaluation.answering.next_ids", lambda *_, **__: torch.tensor(next(steps))
    )
    question = read_questions(questions_file)[0]
    (answer,) = answer_questions(loaded, [question], max_new_tokens=9, batching=Batching())
    assert answer.answer == 2 * loaded.tokenizer.decode([70])
    assert answer.ended


def test_a_cut_answer_is_reported_as_not_ended(chat_model, questions_file):
    questions = read_questions(questions_file)[:3]
    cut = answer_questions(chat_model, questions, max_new_tokens=1, batching=Batching())
    assert not any(one.ended for one in cut)


def test_blank_images_hide_the_images(chat_model, questions_file):
    questions = [q for q in read_questions(questions_file) if len(q.images) == 2]
    same_text = [q for q in questions if q.question == questions[0].question]
    assert len(same_text) > 1
    hidden = answer_questions(
        chat_model, same_text, max_new_tokens=10, batching=Batching(), blank=True
    )
    assert len({one.answer for one in hidden}) == 1


def test_batches_hold_every_index_once_with_equal_lengths_within_the_limits():
    lengths = [5, 9, 5, 5, 9, 7, 5, 50]
    batches = list(equal_length_batches(lengths, batching=Batching(rows=3, positions=20)))
    assert sorted(i for batch in batches for i in batch) == list(range(8))
    for batch in batches:
        assert len({lengths[i] for i in batch}) == 1
        assert len(batch) == 1 or len(batch) * lengths[batch[0]] <= 20
    assert max(map(len, batches)) == 3
