"""A toy model, its checkpoint, and an evaluation file."""

import json

import pytest
import torch
from PIL import Image

from vchat_testing.toy_chat import save_toy_checkpoint, toy_chat_model

TEXTS = ("What color?", "How many circles are there?", "What is this?", "Left or right?")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    return toy_chat_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def questions_file(tmp_path_factory):
    """Twenty questions of two kinds with 0 to 2 images each."""
    folder = tmp_path_factory.mktemp("eval")
    entries = []
    for i in range(20):
        names = [f"images/{i}-{k}.png" for k in range(i % 3)]
        for k, name in enumerate(names):
            (folder / "images").mkdir(exist_ok=True)
            Image.effect_noise((24, 20), 10 + 9 * i + 50 * k).convert("RGB").save(folder / name)
        entries.append(
            {
                "id": f"q{i}",
                "kind": "color" if i % 2 else "count",
                "images": names,
                "question": TEXTS[i % 4],
                "answer": "red" if i % 4 < 2 else "two",
                "chance": 0.5,
            }
        )
    path = folder / "eval.json"
    path.write_text(json.dumps(entries))
    return path


@pytest.fixture(scope="module")
def checkpoint(chat_model, tmp_path_factory):
    return save_toy_checkpoint(chat_model, tmp_path_factory.mktemp("run"))
