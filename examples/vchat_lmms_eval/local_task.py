"""Make a task of lmms-eval from a file of `vchat-train eval`, to run without any download.

python local_task.py data/eval.json tasks
lmms-eval --include_path tasks --tasks vchat_local --model vchat --model_args checkpoint=out
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

TASK = """\
task: vchat_local
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
doc_to_visual: !function functions.doc_to_visual
doc_to_text: !function functions.doc_to_text
doc_to_target: answer
generation_kwargs:
  max_new_tokens: 32
  until: []
process_results: !function functions.process_results
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""

FUNCTIONS = '''\
"""What lmms-eval asks about a question of the local task."""

from PIL import Image
from vchat.train import exact_match


def doc_to_visual(doc):
    return [Image.open(path).convert("RGB") for path in doc["images"]]


def doc_to_text(doc):
    return doc["question"]


def process_results(doc, results):
    return {"exact_match": exact_match(results[0], [doc["answer"]])}
'''


def write_task(questions_file: Path, out: Path) -> None:
    """Write `out/vchat_local`: the task, its functions, and the questions with absolute paths."""
    folder = out.resolve() / "vchat_local"
    folder.mkdir(parents=True, exist_ok=True)
    root = questions_file.resolve().parent
    lines = [
        json.dumps(question | {"images": [str(root / name) for name in question["images"]]})
        for question in json.loads(questions_file.read_text(encoding="utf-8"))
    ]
    data = folder / "questions.jsonl"
    data.write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "vchat_local.yaml").write_text(TASK.format(data=data), encoding="utf-8")
    (folder / "functions.py").write_text(FUNCTIONS, encoding="utf-8")


if __name__ == "__main__":
    write_task(Path(sys.argv[1]), Path(sys.argv[2]))
