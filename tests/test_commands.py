"""What holds for every command: help answers without heavy imports, wrong use exits with 2."""

import subprocess
import sys

import pytest

from vchat.base.version import __version__

ENTRY_POINTS = {
    "vchat-prep": "vchat.prep.commands.main",
    "vchat-shards": "vchat.shards.commands.main",
    "vchat-train": "vchat.train.commands.main",
    "vchat-chat": "vchat.train.chat.commands.main",
}
HEAVY = {"torch", "transformers", "deepspeed", "pyarrow", "webdataset", "numpy", "PIL"}
PROBE = """
import sys, importlib
sys.argv = {argv!r}
try:
    importlib.import_module({module!r}).main()
finally:
    print("LOADED", *sorted(set(sys.modules) & {heavy!r}), file=sys.stderr)
"""


def call(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = PROBE.format(argv=[name, *arguments], module=ENTRY_POINTS[name], heavy=HEAVY)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def subcommands() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name in ENTRY_POINTS:
        found.append((name,))
        _, _, listing = call(name, "--help").stdout.partition("Commands:")
        found += [(name, line.split()[0]) for line in listing.splitlines() if line[2:3].strip()]
    return found


@pytest.fixture(scope="module")
def every_command() -> list[tuple[str, ...]]:
    return subcommands()


def test_every_command_prints_help_without_heavy_imports(every_command):
    assert len(every_command) > 8
    for name, *rest in every_command:
        done = call(name, *rest, "--help")
        assert done.returncode == 0, (name, rest, done.stderr)
        assert "Usage:" in done.stdout
        assert "-h, --help" in done.stdout, (name, rest)
        assert "--version" in done.stdout, (name, rest)
        assert done.stderr.strip().endswith("LOADED"), (name, rest, done.stderr)


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_short_help_and_version_need_no_heavy_imports(name):
    assert call(name, "-h").stdout == call(name, "--help").stdout
    done = call(name, "--version")
    assert (done.returncode, done.stdout) == (0, f"{name} {__version__}\n")
    assert done.stderr.strip().endswith("LOADED"), done.stderr


@pytest.mark.parametrize("module", ["prep", "shards", "train", "train.chat"])
def test_a_package_runs_as_its_command(module):
    command = [sys.executable, "-m", f"vchat.{module}", "--version"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"python -m vchat.{module} {__version__}\n")


@pytest.mark.parametrize(
    "name, wrong, right",
    [
        ("vchat-prep", "biuld", "build"),
        ("vchat-shards", "verfiy", "verify"),
        ("vchat-train", "wher", "where"),
        ("vchat-chat", "serv", "serve"),
    ],
)
def test_a_mistyped_command_is_wrong_use_with_a_suggestion(name, wrong, right):
    done = call(name, wrong)
    assert done.returncode == 2
    assert f"no command {wrong!r}; did you mean {right!r}?" in done.stderr


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_an_unknown_flag_is_wrong_use(name):
    done = call(name, "--no-such-flag")
    assert done.returncode == 2
    assert "no-such-flag" in done.stderr
