"""Every way to install gives every module and every data file, or fails loudly."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("base", "prep", "shards", "model", "train")
COMMANDS = ("vchat-prep", "vchat-shards", "vchat-train", "vchat-chat")


def test_every_folder_with_code_is_a_package() -> None:
    with_code = {file.parent for name in FOLDERS for file in (ROOT / name).rglob("*.py")}
    assert with_code
    assert not [str(folder) for folder in with_code if not (folder / "__init__.py").exists()]


def test_every_folder_of_ours_is_linked_into_the_package() -> None:
    links = {path.name for path in (ROOT / "src/vchat").iterdir() if path.is_symlink()}
    assert links == set(FOLDERS)
    assert all((ROOT / "src/vchat" / name).resolve() == ROOT / name for name in FOLDERS)


def test_every_dependency_says_why_it_is_there() -> None:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    dependencies = [line for line in lines if line.startswith('  "') and ">=" in line]
    assert dependencies
    assert all("#" in line for line in dependencies), [d for d in dependencies if "#" not in d]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one commit: the files as they are here now."""
    folder = tmp_path_factory.mktemp("source") / "vchat"
    listing = run(["git", "ls-files", "-co", "--exclude-standard", "-z"], folder=ROOT)
    for name in filter(None, listing.split("\0")):
        if os.path.lexists(ROOT / name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    run(["git", "init", "--quiet"], folder=folder)
    run(["git", "add", "--all"], folder=folder)
    run(["git", *who, "commit", "--quiet", "--message", "all"], folder=folder)
    return folder


def run(command: Sequence[object], *, folder: Path) -> str:
    """Run a command away from this checkout, and return what it prints."""
    done = try_to_run(command, folder=folder)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


def try_to_run(command: Sequence[object], *, folder: Path) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True)


def new_environment(folder: Path) -> Path:
    """Make an environment that sees our dependencies but not our code; return its Python."""
    venv.create(folder, with_pip=False)
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text("\n".join(libraries) + "\n")
    return folder / "bin" / "python"


def install(python: Path, what: object) -> subprocess.CompletedProcess[str]:
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed"]
    command = [python, "-m", "pip", "install", "--quiet", *options, what]
    return try_to_run(command, folder=python.parent)


def build(repository: Path, kind: str, out: Path) -> Path:
    """Build a `wheel` or an `sdist`."""
    out.mkdir()
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(out)!r}))"
    run([sys.executable, "-c", code], folder=repository)
    (path,) = out.iterdir()
    return path


@pytest.mark.soak
@pytest.mark.parametrize("form", ["wheel", "sdist", "git", "folder"])
def test_an_installed_package_builds_shards(repository: Path, tmp_path: Path, form: str) -> None:
    what: object = {"git": f"git+file://{repository}", "folder": repository}.get(form)
    what = what or build(repository, form, tmp_path / "built")
    python = new_environment(tmp_path / "environment")
    done = install(python, what)
    assert done.returncode == 0, done.stderr
    code = "import vchat, importlib.util as u; print(vchat.__file__, u.find_spec('vchat_testing'))"
    assert run([python, "-c", code], folder=tmp_path).split() == [
        str(next(tmp_path.glob("environment/lib/python*/site-packages")) / "vchat/__init__.py"),
        "None",
    ]
    check_commands(python.parent, tmp_path)


def check_commands(commands: Path, folder: Path) -> None:
    """Every command says its version, and those that need data files find them."""
    version = run(
        [commands / "python", "-c", "import vchat; print(vchat.__version__)"], folder=folder
    )
    for name in COMMANDS:
        assert version.strip() in run([commands / name, "--version"], folder=folder)
    run([commands / "vchat-prep", "sample-data", "--out", "data", "--images", "120"], folder=folder)
    words = ["--recipe", "tiny", "--data", "data", "--tokenizer", "data/tokenizer"]
    run([commands / "vchat-prep", "build", *words, "--out", "shards"], folder=folder)
    run([commands / "vchat-shards", "verify", "shards"], folder=folder)
    run([commands / "vchat-shards", "html", "shards", "--out", "page.html"], folder=folder)
    settings = ["--set", "data.shards=shards", "--set", "run.out=run"]
    run([commands / "vchat-train", "plan", "tiny.toml", *settings], folder=folder)


@pytest.mark.soak
def test_a_zip_whose_links_became_texts_is_refused(repository: Path, tmp_path: Path) -> None:
    archive = tmp_path / "vchat.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(repository.rglob("*")):
            name = f"vchat/{path.relative_to(repository)}"
            if path.is_symlink():
                file.writestr(name, str(path.readlink()))
            elif path.is_file() and ".git" not in path.parts:
                file.write(path, name)
    python = new_environment(tmp_path / "environment")
    done = install(python, archive)
    assert done.returncode != 0
    assert not list(tmp_path.glob("environment/lib/python*/site-packages/vchat"))


def test_the_version_is_stated_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {
        "attr": "vchat.base.version.__version__"
    }
