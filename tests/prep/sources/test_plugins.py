"""A package of somebody else's adds a data set that builds like ours."""

import ast
import os
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import vchat.prep as prep_face
import vchat.shards as shards_face
from vchat.prep.sources import catalogue, plugins
from vchat.shards.format.open_shards import open_shards
from vchat_testing.raw_data import write_image
from vchat_testing.toy import toy_tokenizer

EXAMPLE = Path(__file__).parents[3] / "examples/vchat_captions"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder with the example package, installed by pip."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(EXAMPLE, folder / "package")
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    target = ("--target", folder / "site", folder / "package")
    subprocess.run([sys.executable, "-m", "pip", "install", *offline, *target], check=True)
    return folder / "site"


def prep(installed, *arguments):
    command = [sys.executable, "-m", "vchat.prep.commands.main", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_an_installed_package_adds_a_data_set(installed, tmp_path):
    for number in range(3):
        write_image(tmp_path / f"captions/images/{number}.jpg", number=number)
    lines = ["file,caption", "0.jpg,Red.", '1.jpg,"Green, mostly."', "2.jpg,", "9.jpg,Gone."]
    (tmp_path / "captions/captions.csv").write_text("\n".join(lines))
    toy_tokenizer(tmp_path / "tokenizer")
    places = ("--data", tmp_path, "--tokenizer", tmp_path / "tokenizer", "--out", tmp_path / "out")
    done = prep(installed, "build", "--datasets", "captions", *places, "--eval-fraction", 0)
    assert done.returncode == 0, done.stderr
    assert "captions: 4 rows, 2 records used" in done.stdout
    shards = open_shards(tmp_path / "out")
    answers = {shards.read_sample(row).rounds[0].answer for row in shards.index().to_pylist()}
    assert answers == {"Red.", "Green, mostly."}
    assert shards.manifest["licences"] == {"captions": "your own"}
    assert "captions in a CSV file" in prep(installed, "sources").stdout


def added(monkeypatch, *points):
    found = [EntryPoint(name, value, plugins.GROUP) for name, value in points]
    monkeypatch.setattr(plugins, "entry_points", lambda group: found)


@pytest.mark.parametrize(
    "name, value, problem",
    [
        ("mine", "no_such_module:SOURCE", "cannot be loaded: No module named 'no_such_module'"),
        (
            "mine",
            "vchat.prep.sources.conversations.llava:ABSENT",
            "cannot be loaded: .* no attribute 'ABSENT'",
        ),
        ("mine", "vchat.prep.sources.conversations.llava:HOME", "is str, want a vchat.prep Source"),
        (
            "mine",
            "vchat.prep.sources.conversations.llava:SOURCE",
            "a source named 'llava': want equal names",
        ),
        ("llava", "other:SOURCE", "other:SOURCE adds 'llava', the name of a data set of ours"),
    ],
)
def test_a_wrong_entry_point_is_named(monkeypatch, name, value, problem):
    added(monkeypatch, (name, value))
    with pytest.raises(ValueError, match=problem):
        catalogue.find_source(name)


def test_two_packages_may_not_add_one_name(monkeypatch):
    added(monkeypatch, ("mine", "one:SOURCE"), ("mine", "two:SOURCE"))
    with pytest.raises(ValueError, match="'mine' is added by both one:SOURCE and two:SOURCE"):
        catalogue.source_names()


def test_the_example_imports_public_names_only():
    tree = ast.parse((EXAMPLE / "vchat_captions.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = {(node.module, one.name) for node in imports for one in node.names}
    public = {(face.__name__, name) for face in (prep_face, shards_face) for name in face.__all__}
    assert {(module, name) for module, name in names if module.startswith("vchat")} <= public
