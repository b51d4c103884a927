"""An exported model is the checkpoint's, and loads where there is no trainer."""

import subprocess
import sys

import pytest
import torch

from vchat.train.chat.chat_model import load_chat_model
from vchat.train.chat.generation import Sampling
from vchat.train.chat.session import ChatSession
from vchat.train.checkpoints.checkpoint import open_checkpoint
from vchat.train.convert.export import export_checkpoint
from vchat.train.evaluation.answering import decode_greedily
from vchat_testing.training_runs import run_here, training_shards, write_run
from vchat_testing.warm import environment, run_command

FRESH = """
import sys

import torch
from transformers import PreTrainedTokenizerFast
from vchat.model.visual_chat import VisualChat

folder, ids = sys.argv[1], [int(one) for one in sys.argv[2].split()]
model = VisualChat.from_pretrained(folder).eval()
tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
pixels = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
answer = model.generate(torch.tensor([ids]), pixels, max_new_tokens=6)[0, len(ids):].tolist()
print(answer)
print(repr(tokenizer.decode(answer)))
print([name for name in sys.modules if name.startswith(("deepspeed", "vchat.train", "vchat.prep"))])
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model trained for two steps under ZeRO-3, and what the command makes of it."""
    folder = tmp_path_factory.mktemp("export")
    run_file = write_run(folder, shards=training_shards(folder / "shards"))
    run_here(run_file, "run.steps=2", "deepspeed.zero_stage=3")
    done = run_command(
        "vchat-train", "export", "--checkpoint", folder / "out", "--out", folder / "plain"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_a_fresh_process_without_the_trainer_loads_it_and_generates_the_same(exported):
    chat_model, _ = load_chat_model(exported / "out", device="cpu")
    parts = chat_model.template.opening()
    parts += chat_model.template.round("What color?", None, num_images=1, first_image=1)
    ids = chat_model.prompt_ids(parts, inputs=[1])
    pixels = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    (wanted,) = decode_greedily(chat_model, [ids], pixels=pixels, max_new_tokens=6)
    command = [sys.executable, "-c", FRESH, str(exported / "plain"), " ".join(map(str, ids))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    text = chat_model.tokenizer.decode(wanted)
    assert done.stdout.splitlines() == [str(wanted), repr(text), "[]"]


def test_every_weight_is_the_checkpoints_and_chat_answers_alike(exported):
    trained, _ = load_chat_model(exported / "out", device="cpu")
    plain, opened = load_chat_model(exported / "plain", device="cpu")
    assert opened.step == 2
    theirs = trained.model.state_dict()
    assert set(theirs) == set(plain.model.state_dict())
    for name, weight in plain.model.state_dict().items():
        assert torch.equal(weight, theirs[name]), name
    sampling = Sampling(max_new_tokens=4)
    answers = ["".join(ChatSession(m, sampling=sampling).ask("What?")) for m in (trained, plain)]
    assert answers[0] == answers[1]


def test_the_precision_is_the_requested_one(exported):
    export_checkpoint(open_checkpoint(exported / "plain"), exported / "half", precision="bf16")
    assert load_chat_model(exported / "half", device="cpu")[0].model.dtype == torch.bfloat16


def test_bad_input_is_one_clear_line(exported, tmp_path):
    again = run_command(
        "vchat-train", "export", "--checkpoint", exported / "out", "--out", exported / "plain"
    )
    assert again.returncode == 2
    assert again.stderr.strip().endswith("plain: exists already, want a new folder")
    none = run_command("vchat-train", "export", "--checkpoint", tmp_path, "--out", tmp_path / "new")
    assert none.returncode == 1
    assert "neither a complete checkpoint nor a run that has one" in none.stderr
    weights = open_checkpoint(exported / "out").model_folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"model.safetensors: SHA-256 \w+, want"):
        export_checkpoint(open_checkpoint(exported / "out"), tmp_path / "new", precision=None)
    assert not (tmp_path / "new").exists()
