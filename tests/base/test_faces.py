"""Faces: public names are there, the same ones for checkers and Python, and nothing comes early."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from vchat.base.faces import lazy_names

FACES = ("vchat.shards", "vchat.prep", "vchat.model", "vchat.train")
HEAVY = {"torch", "transformers", "deepspeed", "pyarrow", "numpy", "PIL", "obstore", "jinja2"}


def homes_for_checkers(face: str) -> dict[str, str]:
    """Return each name with the module from which a type checker sees it imported."""
    tree = ast.parse(Path(str(importlib.import_module(face).__file__)).read_text())
    (choice,) = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in choice.body if isinstance(node, ast.ImportFrom)]
    return {node.names[0].name: str(node.module) for node in imports}


@pytest.mark.parametrize("face", FACES)
def test_importing_a_face_imports_nothing_large(face: str) -> None:
    code = f"import sys, {face}; print(*sorted(set(sys.modules) & {HEAVY!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("face", FACES)
def test_every_public_name_is_what_a_type_checker_finds(face: str) -> None:
    module, homes = importlib.import_module(face), homes_for_checkers(face)
    assert list(homes)
    assert sorted(homes) == sorted(module.__all__)
    for name, home in homes.items():
        assert getattr(module, name) is getattr(importlib.import_module(home), name)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    get = lazy_names("vchat.shards", {"Loader": "loading.loader"})
    with pytest.raises(AttributeError, match=r"module 'vchat\.shards' has no attribute 'Loder'"):
        get("Loder")
