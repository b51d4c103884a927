"""The local task of the example for lmms-eval asks what the evaluation file asks.

lmms-eval itself is run by hand: it wants other versions of packages than ours.
"""

import importlib.util
import json
from pathlib import Path

import yaml
from PIL import Image

EXAMPLE = Path(__file__).parents[3] / "examples/vchat_lmms_eval"


def loaded(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_task_has_every_question_with_its_images_and_scores_exact_matches(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    question = {"id": "q", "images": ["a.png"], "question": "What color?", "answer": "red"}
    (tmp_path / "eval.json").write_text(json.dumps([question]))
    loaded(EXAMPLE / "local_task.py").write_task(tmp_path / "eval.json", tmp_path / "tasks")
    folder = tmp_path / "tasks/vchat_local"
    text = (folder / "vchat_local.yaml").read_text().replace("!function ", "")
    task = yaml.safe_load(text)
    (line,) = Path(task["dataset_kwargs"]["data_files"]["test"]).read_text().splitlines()
    functions = loaded(folder / "functions.py")
    doc = json.loads(line)
    assert functions.doc_to_text(doc) == "What color?"
    assert [image.size for image in functions.doc_to_visual(doc)] == [(8, 8)]
    assert functions.process_results(doc, ["Red."]) == {"exact_match": 1.0}
    assert functions.process_results(doc, ["blue"]) == {"exact_match": 0.0}
    assert {task[name] for name in ("doc_to_visual", "doc_to_text", "process_results")} == {
        f"functions.{name}" for name in ("doc_to_visual", "doc_to_text", "process_results")
    }
