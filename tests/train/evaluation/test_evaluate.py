"""`vchat-train eval`: its files, its table, its errors."""

import csv
import json

import pytest

from vchat.base.cli import run_command
from vchat.model.adapters import adapt
from vchat.model.towers.hugging_face import register_towers
from vchat.model.towers.open_clip import OpenClipVisionConfig
from vchat.model.towers.qwen_vl import QwenVLVisualConfig
from vchat.train.chat.chat_model import load_chat_model
from vchat.train.chat.generation import Sampling
from vchat.train.chat.session import ChatSession
from vchat.train.commands.main import group
from vchat.train.evaluation.answering import Batching, answer_questions
from vchat.train.evaluation.metrics import normalise_answer
from vchat.train.evaluation.questions import read_questions
from vchat_testing.toy_chat import list_files, save_toy_checkpoint, toy_chat_model


def run_eval(monkeypatch, capsys, *flags):
    """Run `vchat-train eval` in this process; returns its exit code, stdout and stderr."""
    monkeypatch.setattr("sys.argv", ["vchat-train", "eval", *map(str, flags)])
    with pytest.raises(SystemExit) as end:
        run_command(group)
    captured = capsys.readouterr()
    return end.value.code, captured.out, captured.err


def test_the_command_writes_every_answer_and_prints_the_table(
    checkpoint, questions_file, tmp_path, monkeypatch, capsys
):
    flags = ["--checkpoint", checkpoint.parent, "--questions", questions_file, "--ablations"]
    flags += ["--out", tmp_path / "result", "--max-new-tokens", 4]
    code, out, err = run_eval(monkeypatch, capsys, *flags)
    assert code == 0, err
    for words in ("as-is", "blank", "swapped", "chance", "color", "count", "two-image", "all"):
        assert words in out
    assert "answering: 60 of 60 questions" in err
    assert "swapped: 13 of 13 questions with images\n" in out

    report = json.loads((tmp_path / "result" / "answers.json").read_text())
    assert report["step"] == 3
    assert (report["num_swapped"], report["not_swapped"]) == (13, [])
    assert list(report["answers"]) == list(report["scores"]) == ["as-is", "blank", "swapped"]
    first = report["answers"]["as-is"][4]
    assert (first["id"], first["kind"], first["wanted"]) == ("q4", "count", "red")
    assert report["answers"]["swapped"][4]["images"] != first["images"]
    groups = [score["group"] for score in report["scores"]["blank"]]
    assert groups == ["count", "color", "no image", "single-image", "two-image", "all"]

    rows = list(csv.DictReader((tmp_path / "result" / "answers.csv").open(newline="")))
    assert len(rows) == 60
    assert rows[4]["answer"] == first["answer"]
    assert {row["images"] for row in rows} == {"as-is", "blank", "swapped"}


OPEN_CLIP = {"image_size": 16, "patch_size": 8, "width": 32, "head_width": 16, "layers": 1}
QWEN_VL = QwenVLVisualConfig(
    image_size=16,
    patch_size=8,
    patch_width=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=48,
    num_table_positions=4,
    num_queries=4,
    hidden_size=32,
    resampler_head_width=16,
)


@pytest.mark.parametrize("kind", ["open_clip", "qwen_vl", "lora"])
def test_a_checkpoint_of_any_tower_or_with_adapters_is_evaluated_and_answers_as_in_a_chat(
    kind, questions_file, tmp_path, monkeypatch, capsys
):
    register_towers()
    open_clip = OpenClipVisionConfig(vision_cfg=OPEN_CLIP, embed_dim=8, image_size=16)
    tower = {"open_clip": open_clip, "qwen_vl": QWEN_VL, "lora": None}[kind]
    made = toy_chat_model(tmp_path, tower=tower)
    if kind == "lora":
        adapt(made.model, rank=2, alpha=4.0, tower_targets=())
    step = save_toy_checkpoint(made, tmp_path / "run")
    out = tmp_path / "result"
    flags = ["--checkpoint", step, "--questions", questions_file, "--max-new-tokens", 4]
    code, _, err = run_eval(monkeypatch, capsys, *flags, "--out", out)
    assert code == 0, err
    given = json.loads((out / "answers.json").read_text())["answers"]["as-is"]
    reopened, _ = load_chat_model(step, device="cpu")
    question = read_questions(questions_file)[5]  # of two images
    session = ChatSession(reopened, sampling=Sampling(max_new_tokens=4))
    images = [reopened.decode_picture(path.read_bytes()) for path in question.images]
    assert "".join(session.ask(question.question, images=images)) == given[5]["answer"]


def test_without_out_the_answers_lie_beside_the_step(
    checkpoint, questions_file, monkeypatch, capsys
):
    flags = ["--checkpoint", checkpoint, "--questions", questions_file, "--max-new-tokens", 1]
    code, _, err = run_eval(monkeypatch, capsys, *flags)
    assert code == 0, err
    folder = checkpoint.parent / "evaluation" / checkpoint.name
    written = sorted(p.name for p in folder.iterdir())
    assert written == ["answers.csv", "answers.html", "answers.json"]


def test_right_answers_are_counted_as_right(
    chat_model, checkpoint, questions_file, tmp_path, monkeypatch, capsys
):
    """What the model says becomes the wanted answer of all questions but one."""
    questions = read_questions(questions_file)
    said = answer_questions(chat_model, questions, max_new_tokens=6, batching=Batching())
    entries = json.loads(questions_file.read_text())
    for entry, one in zip(entries, said, strict=True):
        entry["answer"] = normalise_answer(one.answer) + "."  # the one that is dropped again
    entries[0]["answer"] = "something else"
    path = questions_file.with_name("right.json")
    path.write_text(json.dumps(entries))
    flags = ["--checkpoint", checkpoint, "--questions", path, "--out", tmp_path]
    code, _, err = run_eval(monkeypatch, capsys, *flags, "--max-new-tokens", 6)
    assert code == 0, err
    report = json.loads((tmp_path / "answers.json").read_text())
    wrong = [one for one in report["answers"]["as-is"] if not one["right"]]
    assert [one["wanted"] for one in wrong] == ["something else"]
    assert report["scores"]["as-is"][-1]["num_right"] == 19


def fails(monkeypatch, capsys, *flags):
    code, out, err = run_eval(monkeypatch, capsys, *flags)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_a_missing_checkpoint_is_one_clear_line(questions_file, tmp_path, monkeypatch, capsys):
    flags = ["--checkpoint", tmp_path / "none", "--questions", questions_file]
    assert "neither a complete checkpoint" in fails(monkeypatch, capsys, *flags)


def test_an_undecodable_image_names_question_and_file(
    checkpoint, questions_file, tmp_path, monkeypatch, capsys
):
    (tmp_path / "a.jpg").write_bytes(b"not an image")
    entry = json.loads(questions_file.read_text())[0] | {"images": ["a.jpg"]}
    (tmp_path / "eval.json").write_text(json.dumps([entry]))
    flags = ["--checkpoint", checkpoint, "--questions", tmp_path / "eval.json"]
    err = fails(monkeypatch, capsys, *flags)
    assert "question 'q0'" in err
    assert "a.jpg: picture of 12 bytes: not an image of a known format" in err


def test_a_question_beyond_the_positions_is_named(questions_file, tmp_path, monkeypatch, capsys):
    small = toy_chat_model(tmp_path, max_positions=80)
    checkpoint = save_toy_checkpoint(small, tmp_path / "run")
    flags = ["--checkpoint", checkpoint, "--questions", questions_file]
    assert "question 'q0' takes" in fails(monkeypatch, capsys, *flags)


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_checkpoints_of_other_models_are_refused(
    chat_model, questions_file, tmp_path, monkeypatch, capsys
):
    def failure(name, change):
        folder = save_toy_checkpoint(chat_model, tmp_path / name)
        change(folder)
        list_files(folder)
        flags = ["--checkpoint", folder, "--questions", questions_file]
        return fails(monkeypatch, capsys, *flags)

    err = failure("type", lambda f: change_json(f / "model/config.json", model_type="llama"))
    assert "a model of type 'llama', wanted 'visual_chat'" in err
    err = failure("slot", lambda f: change_json(f / "model/config.json", image_token_id=7))
    assert "checkpoint of another model" in err
    err = failure("weights", lambda f: (f / "model/model.safetensors").write_bytes(b"\0" * 99))
    assert "the weights do not load" in err
    err = failure("none", lambda f: (f / "model/config.json").unlink())
    assert "config.json: no such file" in err
    err = failure("tokenizer", lambda f: change_json(f / "shards.json", tokenizer_fingerprint="0f"))
    assert "fingerprint" in err


def test_missing_weights_are_never_replaced_by_random_ones(
    chat_model, questions_file, tmp_path, monkeypatch, capsys
):
    from safetensors.torch import load_file, save_file

    folder = save_toy_checkpoint(chat_model, tmp_path)
    file = folder / "model" / "model.safetensors"
    weights = load_file(file)
    del weights[sorted(weights)[0]]
    save_file(weights, file, metadata={"format": "pt"})
    list_files(folder)
    flags = ["--checkpoint", folder, "--questions", questions_file]
    assert "weights of another model: 1 missing: " in fails(monkeypatch, capsys, *flags)
