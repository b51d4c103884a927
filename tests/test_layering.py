"""Imports flow one way: prep -> shards <- train -> model."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "prep": {"prep", "shards"},
    "shards": {"shards"},
    "model": {"model"},
    "train": {"train", "shards", "model"},
}
FILES = [path for folder in MAY_IMPORT for path in sorted((ROOT / folder).rglob("*.py"))]


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
            if node.module == "vchat":
                names |= {f"vchat.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_folder_imports_only_what_the_layering_allows(path):
    folder = path.relative_to(ROOT).parts[0]
    ours = {name.split(".")[1] for name in imported_modules(path) if name.startswith("vchat.")}
    assert ours <= MAY_IMPORT[folder]


@pytest.mark.parametrize("folder", ["prep", "shards"])
def test_shards_and_prep_need_no_deepspeed(folder):
    for path in (ROOT / folder).rglob("*.py"):
        assert not any(name.split(".")[0] == "deepspeed" for name in imported_modules(path)), path
