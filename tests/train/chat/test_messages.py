import base64

import pytest

from vchat.train.chat.generation import Sampling
from vchat.train.chat.messages import read_request

DEFAULT = Sampling(max_new_tokens=77)


def user(*parts):
    return {"role": "user", "content": list(parts)}


def text(value):
    return {"type": "text", "text": value}


def image(data=b"pixels", *, form="data:image/png;base64,{}"):
    url = form.format(base64.b64encode(data).decode())
    return {"type": "image_url", "image_url": {"url": url}}


def read(*messages, **fields):
    return read_request({"messages": list(messages), **fields}, default=DEFAULT)


def test_messages_become_rounds_with_their_images_and_answers():
    request = read(
        {"role": "system", "content": "Be brief."},
        user(image(b"one"), text(" What "), image(b"two"), text("is this? ")),
        {"role": "assistant", "content": " A cat. "},
        {"role": "user", "content": "Which?"},
    )
    assert request.system == "Be brief."
    first, second = request.rounds
    assert (first.images, first.question) == ((b"one", b"two"), "What\n\nis this?")
    assert first.places == (-1, 5)
    assert first.answer == " A cat. "
    assert (second.images, second.question, second.answer) == ((), "Which?", None)


def test_images_before_and_after_the_text_stand_before_it():
    request = read(user(image(b"one"), text("Same?"), image(b"two")))
    assert (request.rounds[0].question, request.rounds[0].places) == ("Same?", ())


def test_a_missing_field_takes_the_default():
    request = read({"role": "user", "content": "What?"}, model="any", logprobs=False, stop=None)
    assert request.sampling == DEFAULT
    assert (request.system, request.seed, request.stream) == (None, None, False)


def test_settings_are_read():
    fields = {"max_tokens": 5, "temperature": 1, "top_p": 0.5, "seed": 9, "stream": True}
    request = read({"role": "user", "content": "What?"}, **fields)
    assert request.sampling == Sampling(max_new_tokens=5, temperature=1.0, top_p=0.5)
    assert (request.seed, request.stream) == (9, True)
    request = read({"role": "user", "content": "What?"}, max_completion_tokens=6)
    assert request.sampling.max_new_tokens == 6


USER = {"role": "user", "content": "What?"}
ASSISTANT = {"role": "assistant", "content": "This."}


@pytest.mark.parametrize(
    "body, message",
    [
        ([], "the body is an array, wanted a JSON object"),
        ({}, "messages is missing"),
        ({"messages": []}, "messages is empty, wanted an array that ends with a user's"),
        ({"messages": ["hi"]}, r"messages\[0\]\.role is None, wanted 'user'"),
        ({"messages": [ASSISTANT]}, r"messages\[0\]\.role is 'assistant', wanted 'user'"),
        ({"messages": [USER, USER]}, r"messages\[1\]\.role is 'user', wanted 'assistant'"),
        ({"messages": [USER, ASSISTANT]}, "messages end without a question"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages end without a question"),
        ({"messages": [user(image())]}, r"messages\[0\]\.content has no text"),
        ({"messages": [user({"type": "audio"})]}, r"content\[0\]\.type is 'audio', wanted"),
        ({"messages": [user("hi")]}, r"content\[0\]\.type is None, wanted"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\]\.content is missing"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "half of a surrogate pair"),
        ({"messages": [USER], "n": 2}, "n is 2, wanted 1"),
        ({"messages": [USER], "max_tokens": 0}, "max_tokens is 0, wanted a whole number from 1"),
        ({"messages": [USER], "max_tokens": "9"}, "max_tokens is '9', wanted a whole number"),
        ({"messages": [USER], "temperature": "hot"}, "temperature is a string, wanted a number"),
        ({"messages": [USER], "temperature": -1}, r"temperature is -1\.0, wanted 0 or more"),
        ({"messages": [USER], "temperature": 10**400}, "temperature is 1000.*a finite number"),
        ({"messages": [USER], "temperature": float("nan")}, "temperature is nan, wanted a finite"),
        ({"messages": [USER], "top_p": 2}, r"top_p is 2\.0"),
        ({"messages": [USER], "stream": 1}, "stream is a number, wanted true or false"),
    ],
)
def test_an_error_names_the_field_what_was_found_and_what_is_wanted(body, message):
    with pytest.raises(ValueError, match=message):
        read_request(body, default=DEFAULT)


@pytest.mark.parametrize(
    "form, message",
    [
        ("https://example.org/{}.png", "wanted data:image/...;base64,"),
        ("file:///etc/passwd#{}", "wanted data:image/...;base64,"),
        ("data:text/html;base64,{}", "wanted data:image/...;base64,"),
        ("data:image/png,{}", "wanted data:image/...;base64,"),
        ("data:image/png;base64,%%%{}", "not base64"),
    ],
)
def test_images_come_as_data_uris_only(form, message):
    with pytest.raises(ValueError, match=message) as error:
        read(user(image(form=form), text("What?")))
    assert error.match(r"messages\[0\]\.content\[0\]\.image_url\.url")


def test_a_seed_of_minus_one_is_none():
    assert read(user(text("Hi")), seed=-1).seed is None
