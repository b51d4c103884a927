import base64
import http.client
import io
import json
import socket
import threading
import time

import openai
import pytest
import torch
import uvicorn
from PIL import Image

from vchat.base.cli import run_command
from vchat.train.chat import server as server_module
from vchat.train.chat.commands.main import chat
from vchat.train.chat.generation import Sampling
from vchat.train.chat.messages import read_request
from vchat.train.chat.server import ChatServer
from vchat.train.chat.service import ChatService
from vchat.train.chat.session import ChatSession, EndReason
from vchat_testing.toy_chat import save_toy_checkpoint, toy_chat_model, toy_picture

DEFAULT = Sampling(max_new_tokens=8)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    return toy_chat_model(tmp_path_factory.mktemp("chat"), max_positions=600)


@pytest.fixture(scope="module")
def service(chat_model):
    return ChatService(chat_model)


@pytest.fixture(scope="module")
def address(service):
    """A server of the toy model on a free port of loopback; returns (host, port)."""
    server = ChatServer(service, name="step-3", default=DEFAULT)
    app = server.app(hosts=["localhost", "127.0.0.1"])
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield listening.getsockname()
    server.should_exit = True
    thread.join()


def picture_file(number):
    file = io.BytesIO()
    Image.fromarray(toy_picture(number).permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()


def user(question, *numbers):
    urls = ["data:image/png;base64," + base64.b64encode(picture_file(n)).decode() for n in numbers]
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"role": "user", "content": [*parts, {"type": "text", "text": question}]}


def assistant(answer):
    return {"role": "assistant", "content": answer}


def request(address, method, path, body=None, **headers):
    connection = http.client.HTTPConnection(*address, timeout=60)
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    connection.request(method, path, body=data, headers=headers)
    response = connection.getresponse()
    answer = response.status, response.read().decode(), response.headers
    connection.close()
    return answer


def complete(address, *messages, **fields):
    status, text, _ = request(
        address, "POST", "/v1/chat/completions", {"messages": messages, **fields}
    )
    return status, json.loads(text)


def expected(chat_model, *rounds):
    """Answers of one session to (question, picture numbers) ..."""
    session = ChatSession(chat_model, sampling=DEFAULT)
    for question, *numbers in rounds:
        images = [chat_model.decode_picture(picture_file(n)) for n in numbers]
        list(session.ask(question, images=images))
    return session


def test_an_answer_is_that_of_a_chat_session(chat_model, address):
    status, reply = complete(address, user("What?", 0, 1))
    assert status == 200
    session = expected(chat_model, ("What?", 0, 1))
    (choice,) = reply["choices"]
    assert choice["message"] == {"role": "assistant", "content": session.rounds[0].answer}
    assert choice["finish_reason"] in ("stop", "length")
    usage = reply["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens"] <= 8


def test_a_stream_carries_the_same_answer_in_pieces(address):
    _, whole = complete(address, user("What?", 0, 1))
    status, text, headers = request(
        address,
        "POST",
        "/v1/chat/completions",
        {"messages": [user("What?", 0, 1)], "stream": True},
    )
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    *blocks, done, rest = text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    chunks = [json.loads(block.removeprefix("data: ")) for block in blocks]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    pieces = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert "".join(pieces) == whole["choices"][0]["message"]["content"]
    assert len(pieces) > 3
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons[:-1] == [None] * (len(chunks) - 1)
    assert reasons[-1] == whole["choices"][0]["finish_reason"]
    assert chunks[-1]["usage"] == whole["usage"]


def test_an_image_of_another_dialogue_does_not_go_through_the_tower_again(chat_model, address):
    complete(address, user("What?", 5))
    counts = []
    hook = chat_model.model.tower.register_forward_hook(lambda *_: counts.append(1))
    complete(address, user("Where?"), assistant("There."), user("And here?", 5))
    hook.remove()
    assert counts == []


def test_a_dialogue_that_goes_on_feeds_only_its_new_round(chat_model, monkeypatch):
    service = ChatService(chat_model)

    def answer(*messages):
        asked = read_request({"messages": list(messages)}, default=DEFAULT)
        return "".join(service.answer(service.prepare(asked)))

    first = answer(user("What?", 0))
    lengths = []
    extend = type(chat_model.model).extend
    monkeypatch.setattr(
        type(chat_model.model),
        "extend",
        lambda model, cache, ids, *pixels, **images: (
            lengths.append(ids.shape[1]) or extend(model, cache, ids, *pixels, **images)
        ),
    )
    second = answer(user("What?", 0), assistant(first), user("And?", 1))
    session = expected(chat_model, ("What?", 0), ("And?", 1))
    assert [one.answer for one in session.rounds] == [first, second]
    lengths_of_new_round = lengths[0]
    lengths.clear()
    answer(user("What?", 0), assistant(first + "!"), user("And?", 1))  # another history
    assert lengths[0] > lengths_of_new_round + 50


def test_only_the_latest_dialogues_are_kept(chat_model):
    service = ChatService(chat_model, num_sessions=2)
    for question in ("One?", "Two?", "Three?"):
        asked = read_request({"messages": [user(question)]}, default=DEFAULT)
        list(service.answer(service.prepare(asked)))
    assert len(service._sessions) == 2


def test_the_system_message_replaces_the_system_text(chat_model, address):
    system = {"role": "system", "content": "Be brief."}
    status, reply = complete(address, system, user("What?"))
    assert status == 200
    session = expected(chat_model.with_system("Be brief."), ("What?",))
    assert reply["choices"][0]["message"]["content"] == session.rounds[0].answer
    assert session.chat_model.template.system == "Be brief.\n\n"


def refused(address, status, body, **headers):
    found, text, _ = request(address, "POST", "/v1/chat/completions", body, **headers)
    assert found == status, text
    return json.loads(text)["error"]["message"]


def test_wrong_requests_are_refused_with_a_reason(address, monkeypatch):
    assert "messages is missing" in refused(address, 400, {})
    assert "the body is not JSON" in refused(address, 400, b"{")
    for body in (b"[" * 100_000, b"[" * 101 + b"]" * 101):
        assert "the body is nested too deep" in refused(address, 400, body)
    message = user("What?")
    message["content"].append({"type": "image_url", "image_url": {"url": "http://a/b.png"}})
    assert "wanted data:image" in refused(address, 400, {"messages": [message]})
    message["content"][-1] = {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64,AAAA"},
    }
    assert "image 1 of the dialogue: picture of 3 bytes: not an image" in refused(
        address, 400, {"messages": [message]}
    )
    many = user("What?", *range(120))
    assert "positions" in refused(address, 400, {"messages": [many]})
    assert "wanted application/json" in refused(address, 415, b"{}", Content_Type="text/plain")
    monkeypatch.setattr(server_module, "MAX_BODY_BYTES", 1000)
    assert "larger than 1000 bytes" in refused(address, 413, b" " * 5000)


def test_other_hosts_and_paths_are_refused(address):
    assert request(address, "GET", "/", Host="evil.example")[0] == 400
    assert request(address, "GET", "/../etc/passwd")[0] == 404
    assert request(address, "GET", "/v1/chat/completions")[0] == 405


def test_the_page_loads_nothing_from_elsewhere(address):
    status, html, headers = request(address, "GET", "/")
    assert status == 200
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert "http://" not in html
    assert "https://" not in html
    assert "innerHTML" not in html


def test_the_model_is_listed(address):
    status, text, _ = request(address, "GET", "/v1/models")
    assert status == 200
    assert [model["id"] for model in json.loads(text)["data"]] == ["step-3"]


def test_requests_at_once_get_the_answers_they_would_get_alone(address):
    questions = ["What?", "How many?", "Left or right?"]
    alone = [complete(address, user(q, 1))[1]["choices"][0]["message"] for q in questions]
    found = {}

    def ask(question):
        found[question] = complete(address, user(question, 1))[1]["choices"][0]["message"]

    threads = [threading.Thread(target=ask, args=(q,)) for q in questions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[q] for q in questions] == alone


def test_a_client_that_disconnects_stops_its_answer(service, chat_model, address, monkeypatch):
    extend = type(chat_model.model).extend
    monkeypatch.setattr(
        type(chat_model.model),
        "extend",
        lambda *fed, **images: time.sleep(0.02) or extend(*fed, **images),
    )
    body = {"messages": [user("Going?")], "stream": True, "max_tokens": 400}
    connection = http.client.HTTPConnection(*address, timeout=60)
    connection.request(
        "POST",
        "/v1/chat/completions",
        body=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    response = connection.getresponse()
    response.readline()
    response.close()
    connection.close()
    deadline = time.monotonic() + 60
    stopped = []
    while not stopped and time.monotonic() < deadline:
        time.sleep(0.1)
        last = [session.rounds[-1] for session in service._sessions.values()]
        stopped = [one for one in last if one.question == "Going?"]
    assert stopped[0].end_reason is EndReason.STOPPED
    assert stopped[0].num_tokens < 400


def test_a_taken_port_is_one_line(chat_model, tmp_path, monkeypatch, capsys):
    checkpoint = save_toy_checkpoint(chat_model, tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        flags = ["--checkpoint", str(checkpoint), "--port", str(port)]
        monkeypatch.setattr("sys.argv", ["vchat-chat", "serve", *flags])
        with pytest.raises(SystemExit) as end:
            run_command(chat)
    assert end.value.code == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in capsys.readouterr().err


def test_the_client_of_openai_chats_with_it_about_images(chat_model, address):
    host, port = address
    client = openai.OpenAI(base_url=f"http://{host}:{port}/v1", api_key="none", max_retries=0)
    (model,) = client.models.list()
    asked = {"model": model.id, "messages": [user("What?", 0, 1)], "max_tokens": 8}
    whole = client.chat.completions.create(**asked)
    expected_answer = expected(chat_model, ("What?", 0, 1)).rounds[0].answer
    assert whole.choices[0].message.content == expected_answer
    chunks = list(client.chat.completions.create(**asked, stream=True))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == expected_answer
    assert chunks[-1].usage == whole.usage
    elsewhere = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    wrong = [{"role": "user", "content": [elsewhere]}]
    with pytest.raises(openai.BadRequestError, match=r"messages\[0\].content\[0\].image_url"):
        client.chat.completions.create(model=model.id, messages=wrong)
