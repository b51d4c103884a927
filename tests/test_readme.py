"""README lists every module with its caption, which is the first sentence of its docstring.

Renew the list after adding or renaming a module: `python tests/test_readme.py`.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
FOLDERS = {
    "prep": "offline: raw data sets -> shards",
    "shards": "the format, and everything that reads or writes it",
    "model": "tensors in, tensors out",
    "train": "DeepSpeed: training, evaluation, chat",
    "bench": "each file prints ratios against peers or limits, side by side",
}
BEGIN, END = "<!-- tree -->\n```text\n", "```\n<!-- /tree -->"


def caption(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    paragraph = " ".join(docstring.partition("\n\n")[0].split())
    return re.split(r"(?<=[.;?])\s", paragraph)[0].rstrip(".;")


def tree() -> str:
    lines = []
    for folder, about in FOLDERS.items():
        lines.append(f"{folder + '/':<31} {about}")
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = str(path.relative_to(ROOT / folder))
            if path.read_text().strip():
                lines.append(f"  {name:<29} {caption(path)}")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def test_readme_lists_every_module_with_its_caption():
    listed = README.read_text().partition(BEGIN)[2].partition(END)[0]
    assert listed == tree(), "run: python tests/test_readme.py"


def test_every_module_has_a_caption_that_fits_a_line():
    assert [line for line in tree().splitlines() if not 34 < len(line) < 140] == []


if __name__ == "__main__":
    before, begin, rest = README.read_text().partition(BEGIN)
    README.write_text(before + begin + tree() + END + rest.partition(END)[2])
