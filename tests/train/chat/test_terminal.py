import io
import itertools

import pytest
import torch
from PIL import Image

from vchat.base.cli import run_command
from vchat.base.terminal_text import escape_controls
from vchat.train.chat.commands.main import chat
from vchat.train.chat.generation import Sampling
from vchat.train.chat.session import ChatSession
from vchat.train.chat.terminal import (
    TerminalChat,
    completions,
    converse,
    image_path,
    parse_line,
    read_piped_lines,
    read_typed_lines,
)
from vchat_testing.toy_chat import list_files, save_toy_checkpoint, toy_chat_model


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    return toy_chat_model(tmp_path_factory.mktemp("chat"))


@pytest.fixture
def picture_file(tmp_path):
    path = tmp_path / "a picture.png"
    Image.effect_noise((24, 20), 90).save(path)
    return path


def conversation_of(chat_model, **settings):
    sampling = Sampling(**{"max_new_tokens": 4} | settings)
    return TerminalChat(
        ChatSession(chat_model, sampling=sampling), out=io.StringIO(), err=io.StringIO()
    )


def said(conversation):
    """What was written so far to out and err."""
    return conversation._out.getvalue(), conversation._err.getvalue()


def test_a_line_is_a_command_with_its_argument_or_a_question():
    line = parse_line("  /image  a b.jpg ")
    assert (line.command, line.text) == ("/image", "a b.jpg")
    line = parse_line(" What is /image? \n")
    assert (line.command, line.text) == ("", "What is /image?")
    assert parse_line("").text == ""


@pytest.mark.parametrize(
    "text, message",
    [
        ("/imgae a.jpg", r"unknown command '/imgae': did you mean /image\?"),
        ("/xyzzy", "unknown command '/xyzzy': /help lists the commands"),
    ],
)
def test_an_unknown_command_names_the_nearest(text, message):
    with pytest.raises(ValueError, match=message):
        parse_line(text)


def test_a_path_may_be_plain_quoted_or_escaped(picture_file, monkeypatch):
    escaped = str(picture_file).replace(" ", "\\ ")
    for text in (str(picture_file), f"'{picture_file}'", f'"{picture_file}"', escaped):
        assert image_path(text) == picture_file
    monkeypatch.setenv("HOME", str(picture_file.parent))
    assert image_path("~/a picture.png") == picture_file


def test_the_tab_key_completes_commands_and_paths(picture_file, tmp_path):
    (tmp_path / "a folder").mkdir()
    (tmp_path / "b[1].png").touch()
    assert completions("/i") == ["/image"]
    assert completions("/") == ["/image", "/clear", "/help", "/quit"]
    assert completions("What") == []
    found = completions(f"/image {tmp_path}/a")
    assert found == [f"/image {tmp_path}/a folder/", f"/image {picture_file}"]
    assert completions(f"/image {tmp_path}/b[") == [f"/image {tmp_path}/b[1].png"]
    assert f"/image {picture_file}" in completions(f"/image {tmp_path}/")


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "/image wants a path"),
        ("no.jpg", "no.jpg: no such file, wanted an image"),
        ("/dev/null", "/dev/null: not a file"),
        ("'unbalanced", "'unbalanced: no such file"),
    ],
)
def test_a_bad_path_is_one_clear_error(text, message):
    with pytest.raises(ValueError, match=message):
        image_path(text)


def test_escape_codes_never_reach_the_terminal():
    assert (
        escape_controls("red\x1b[2J\x07\x9b1m\tblue\n\u00e9\r")
        == "red\u241b[2J\u2407\ufffd1m\tblue\n\u00e9\u240d"
    )


def test_images_are_pending_until_the_next_question_and_numbered_through(chat_model, picture_file):
    conversation = conversation_of(chat_model)
    assert conversation.prompt == "you> "
    conversation.handle(f"/image {picture_file}")
    conversation.handle(f"/image {picture_file}")
    assert conversation.prompt == "[2 images] you> "
    conversation.handle("Which?")
    assert conversation.prompt == "you> "
    conversation.handle(f"/image {picture_file}")
    assert conversation.prompt == "[1 image] you> "
    conversation.handle("And this?")
    assert [one.num_images for one in conversation.session.rounds] == [2, 1]
    out, err = said(conversation)
    assert [f"image {i}: {picture_file}" in err for i in (1, 2, 3, 4)] == [True, True, True, False]
    answers = "".join(escape_controls(one.answer) + "\n" for one in conversation.session.rounds)
    assert out == answers


@pytest.mark.parametrize("line", ["/image no.jpg", "/image {text}", "/nothing", "/image"])
def test_a_bad_line_is_one_error_line_and_the_chat_goes_on(chat_model, tmp_path, line):
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    conversation = conversation_of(chat_model)
    assert conversation.handle(line.format(text=text))
    out, err = said(conversation)
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert conversation.handle("What?")
    assert len(conversation.session.rounds) == 1


def test_too_many_positions_are_one_error_line_and_clearing_helps(tmp_path, picture_file):
    conversation = conversation_of(toy_chat_model(tmp_path, max_positions=110))
    for _ in range(9):
        conversation.handle(f"/image {picture_file}")
    conversation.handle("Which?")
    assert "of the model's 110 are left: show fewer images" in said(conversation)[1]
    assert conversation.prompt == "[9 images] you> "
    conversation.handle("/clear")
    assert conversation.prompt == "you> "
    conversation.handle("What?")
    assert len(conversation.session.rounds) == 1


def test_clear_forgets_and_quit_leaves(chat_model, picture_file):
    conversation = conversation_of(chat_model)
    conversation.handle("What?")
    conversation.handle(f"/image {picture_file}")
    assert conversation.handle("/clear")
    assert conversation.session.rounds == []
    assert conversation.prompt == "you> "
    assert conversation.handle("/help")
    assert conversation.handle("")
    assert not conversation.handle("/quit")


def test_a_cut_answer_is_marked_as_cut(chat_model):
    conversation = conversation_of(chat_model, max_new_tokens=1)
    conversation.handle("What?")
    assert "(cut at the most new tokens allowed)" in said(conversation)[1]


class InterruptingOut(io.StringIO):
    """Raises KeyboardInterrupt at its third write, as Ctrl-C does at any moment."""

    def __init__(self):
        super().__init__()
        self.count = itertools.count(1)

    def write(self, text):
        if next(self.count) == 3:
            raise KeyboardInterrupt
        return super().write(text)


def test_an_interrupt_stops_the_answer_and_the_chat_goes_on(chat_model):
    sampling = Sampling(max_new_tokens=50)
    out, err = InterruptingOut(), io.StringIO()
    conversation = TerminalChat(ChatSession(chat_model, sampling=sampling), out=out, err=err)
    assert conversation.handle("What?")
    assert conversation.session.rounds[0].num_tokens == 3
    assert "(stopped)" in err.getvalue()
    assert conversation.handle("More?")
    assert len(conversation.session.rounds) == 2


def test_an_interrupt_while_the_question_is_read_keeps_its_images(
    chat_model, picture_file, monkeypatch
):
    conversation = conversation_of(chat_model)
    conversation.handle(f"/image {picture_file}")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(chat_model.model), "extend", interrupted)
        assert conversation.handle("What?")
    assert conversation.prompt == "[1 image] you> "
    assert conversation.handle("What?")
    assert conversation.session.num_images == 1


def test_typed_lines_survive_an_interrupt_and_stop_at_end_of_input():
    events = iter(["one", KeyboardInterrupt, "two", EOFError, "never"])
    prompts = []

    def read(prompt):
        prompts.append(prompt)
        event = next(events)
        if isinstance(event, str):
            return event
        raise event

    err = io.StringIO()
    assert list(read_typed_lines(lambda: "you> ", read=read, err=err)) == ["one", "two"]
    assert prompts == ["you> "] * 4
    assert "/quit leaves" in err.getvalue()


def test_piped_lines_make_the_output_a_dialogue(chat_model):
    conversation = conversation_of(chat_model)
    lines = read_piped_lines(
        ["What?\n", "\n", "/quit\r\n", "Never"], lambda: conversation.prompt, out=conversation._out
    )
    converse(conversation, lines)
    answer = escape_controls(conversation.session.rounds[0].answer)
    assert said(conversation)[0] == f"you> What?\n{answer}\nyou> /quit\n"


def run_chat(monkeypatch, capsys, *flags, typed=""):
    """Run `vchat-chat` in this process; returns its exit code, stdout and stderr."""
    monkeypatch.setattr("sys.argv", ["vchat-chat", *map(str, flags)])
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    capsys.readouterr()  # what libraries said while the test made its checkpoint
    with pytest.raises(SystemExit) as end:
        run_command(chat)
    captured = capsys.readouterr()
    return end.value.code, captured.out, captured.err


def test_the_command_chats_through_a_pipe(chat_model, tmp_path, picture_file, monkeypatch, capsys):
    save_toy_checkpoint(chat_model, tmp_path / "run", step=3)
    save_toy_checkpoint(chat_model, tmp_path / "run", step=12)
    typed = f"/image {picture_file}\n/image no.jpg\nWhat?\n/clear\nWhat?\n"
    flags = ["--checkpoint", tmp_path / "run", "--max-new-tokens", 5]
    code, out, err = run_chat(monkeypatch, capsys, *flags, typed=typed)
    assert code == 0
    assert out.count("you> What?\n") == 2
    assert "error: no.jpg: no such file" in err
    assert run_chat(monkeypatch, capsys, *flags, typed=typed)[1] == out
    other = run_chat(monkeypatch, capsys, *flags, "--system", "Be brief.", typed=typed)[1]
    assert other != out


def test_a_checkpoint_that_is_none_is_one_line_and_exit_code_1(
    chat_model, tmp_path, monkeypatch, capsys
):
    code, out, err = run_chat(monkeypatch, capsys, "--checkpoint", tmp_path / "none")
    assert (code, out) == (1, "")
    assert "neither a complete checkpoint nor a run that has one" in err

    folder = save_toy_checkpoint(chat_model, tmp_path)
    (folder / "model" / "model.safetensors").unlink()
    code, out, err = run_chat(monkeypatch, capsys, "--checkpoint", folder)
    assert (code, out) == (1, "")
    assert "model.safetensors is missing" in err
    list_files(folder)
    code, out, err = run_chat(monkeypatch, capsys, "--checkpoint", folder)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--temperature", "-1"], "temperature is -1.0, wanted 0 or more"),
        (["--max-new-tokens", "0"], "max new tokens is 0"),
        (["--device", "cuda:77"], "device"),
        (["--device", "nonsense"], "device"),
    ],
)
def test_settings_out_of_range_are_one_line(
    chat_model, tmp_path, monkeypatch, capsys, flags, message
):
    folder = save_toy_checkpoint(chat_model, tmp_path)
    code, out, err = run_chat(monkeypatch, capsys, "--checkpoint", folder, *flags)
    assert code == (1 if message == "device" else 2)
    assert out == ""
    assert message in err
    assert err.count("\n") == 1, err
