"""Dialogues in the published format are answered in order, written as published, and scored."""

import csv
import json

import pytest
from PIL import Image

from vchat.base.cli import run_command
from vchat.train.chat.generation import Sampling
from vchat.train.chat.session import ChatSession
from vchat.train.commands.main import group
from vchat.train.evaluation.dialogue_answers import answer_dialogues
from vchat.train.evaluation.dialogue_questions import holds_dialogues, read_dialogues
from vchat.train.evaluation.metrics import exact_match, rouge_l, vqa_accuracy
from vchat.train.evaluation.page import ShownRound, evaluation_page
from vchat_testing.toy_chat import save_toy_checkpoint, toy_chat_model

PUBLISHED = {
    "cats": [
        ["Describe it.", "./images/a.png"],
        ["And these?", "./images/b.png ./images/a.png"],
        ["Are they alike?"],
    ],
    "one": [["What is it?", "images/b.png"]],
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for name, color in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (32, 32), color).save(tmp_path / "images" / f"{name}.png")
    return tmp_path


def written(folder, dialogues):
    path = folder / "dialogues.json"
    path.write_text("\n " + json.dumps(dialogues))
    return path


def test_the_published_format_is_read_with_its_images(folder):
    path = written(folder, PUBLISHED)
    assert holds_dialogues(path)
    cats, one = read_dialogues(path)
    assert [len(asked.images) for asked in cats.rounds] == [1, 2, 0]
    assert cats.rounds[1].images[0] == (folder / "images/b.png").resolve()
    assert one.rounds[0].answer is None


def test_image_paths_may_be_relative_to_another_folder(folder, tmp_path_factory):
    elsewhere = written(tmp_path_factory.mktemp("elsewhere"), PUBLISHED)
    with pytest.raises(ValueError, match=r"'cats', round 1: image './images/a.png' is missing"):
        read_dialogues(elsewhere)
    assert len(read_dialogues(elsewhere, image_root=folder)) == 2


@pytest.mark.parametrize(
    "dialogues, message",
    [
        ({"a": []}, r"dialogue 'a': found list \[\], wanted a list of rounds"),
        ({"a": [[1]]}, r"dialogue 'a', round 1: found list \[1\], wanted \[question\]"),
        ({"a": [["q", "x", "y"]]}, "round 1: found list"),
        ({"a": [{"question": "q", "imags": []}]}, "round 1: found dict"),
        ({"a": [["q"], ["q", "../x.png"]]}, r"round 2: image '../x.png' lies outside"),
        ({}, "found dict {}, wanted an object of dialogues"),
    ],
)
def test_a_wrong_dialogue_is_named(folder, dialogues, message):
    with pytest.raises(ValueError, match=message):
        read_dialogues(written(folder, dialogues))


def test_a_round_is_answered_after_the_rounds_before_it(folder):
    chat_model = toy_chat_model(folder)
    dialogues = read_dialogues(written(folder, PUBLISHED))
    answered = answer_dialogues(chat_model, dialogues, max_new_tokens=3, metrics=())
    session = ChatSession(chat_model, sampling=Sampling(max_new_tokens=3))
    pixels = {
        path: chat_model.decode_picture(path.read_bytes()) for path in folder.glob("images/*")
    }
    for one, asked in zip(answered, dialogues[0].rounds, strict=False):
        images = [pixels[folder / "images" / path.name] for path in asked.images]
        assert one.answer == "".join(session.ask(asked.question, images=images))
    assert [one.dialogue for one in answered] == ["cats"] * 3 + ["one"]


def test_the_command_writes_the_published_columns_a_page_and_the_scores(folder):
    checkpoint = save_toy_checkpoint(toy_chat_model(folder), folder / "run")
    scored = {"question": "What?", "images": ["images/a.png"], "answer": "no such answer"}
    path = written(folder, PUBLISHED | {"<scored>": [scored]})
    flags = ["--checkpoint", str(checkpoint), "--questions", str(path), "--out", str(folder / "o")]
    with pytest.raises(SystemExit) as end:
        run_with(["eval", *flags, "--max-new-tokens", "3", "--metric", "rouge-l"])
    assert end.value.code == 0
    with (folder / "o/answers.csv").open(newline="") as file:
        title, *rows = csv.reader(file)
    assert title == ["test_name", "image_path", "question", "answer"]
    assert [row[:3] for row in rows[:3]] == [
        ["cats", "./images/a.png", "Describe it."],
        ["cats", "./images/b.png ./images/a.png", "And these?"],
        ["cats", "", "Are they alike?"],
    ]
    report = json.loads((folder / "o/answers.json").read_text())
    assert report["scores"]["exact"] == {"rounds": 1, "mean": 0.0}
    assert set(report["scores"]) == {"exact", "rouge-l"}
    page = (folder / "o/answers.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 5
    assert "<scored>" not in page


def run_with(arguments):
    patch = pytest.MonkeyPatch()
    patch.setattr("sys.argv", ["vchat-train", *arguments])
    try:
        run_command(group)
    finally:
        patch.undo()


def test_a_page_says_what_is_right_and_what_was_wanted():
    rounds = [
        ShownRound(group="g", images=(), question="q1", wanted="yes", answer="yes", is_right=True),
        ShownRound(group="g", images=(), question="q2", wanted="<b>", answer="no", is_right=False),
    ]
    page = evaluation_page(rounds, title="t", scores=[("all", "50.0 %")])
    assert page.count("answer right") == 1
    assert page.count("answer wrong") == 1
    assert "wanted: &lt;b&gt;" in page
    assert "wanted: yes" not in page


def test_metrics_of_known_answers():
    assert exact_match(" Red.", ["red"]) == 1
    assert vqa_accuracy("red", ["red"] * 3 + ["blue"] * 7) == pytest.approx(
        (3 * 2 / 3 + 7 * 1) / 10
    )
    assert vqa_accuracy("green", ["red"] * 10) == 0
    assert rouge_l("the cat sat", ["the cat sat down"]) == pytest.approx(2 * 1 * 0.75 / 1.75)
    assert rouge_l("a dog", ["the cat", "a dog"]) == 1
