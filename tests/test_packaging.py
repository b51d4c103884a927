"""The package list in pyproject.toml is complete: an editable install would hide a gap."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_folder_with_code_is_a_listed_package():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(config["tool"]["setuptools"]["packages"])
    found = {
        "vchat." + ".".join(init.parent.relative_to(ROOT).parts)
        for folder in ("prep", "shards", "model", "train")
        for init in (ROOT / folder).rglob("__init__.py")
    }
    assert found == listed


def test_every_dependency_says_why_it_is_there():
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    dependencies = [line for line in lines if line.startswith('  "') and ">=" in line]
    assert dependencies
    assert all("#" in line for line in dependencies), [d for d in dependencies if "#" not in d]
