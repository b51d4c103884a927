"""Groups of commands: imported on use, one line for an error, exit codes."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from vchat.base.cli import LazyGroup, WrongUse, run_command
from vchat.base.version import __version__

MODULE = """
import click

@click.command("count")
def command():
    print("counted")
"""


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LazyGroup:
    """A group whose command lies in a module that was never imported."""
    (tmp_path / "counting_command.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "counting_command", raising=False)
    return LazyGroup("tool", lazy={"count": ("counting_command:command", "Count all.")})


def test_help_lists_the_commands_without_importing_them(group: LazyGroup) -> None:
    for flag in ("-h", "--help"):
        assert "count  Count all." in CliRunner().invoke(group, [flag]).stdout
    assert "counting_command" not in sys.modules
    assert CliRunner().invoke(group, ["count"]).stdout == "counted\n"


@pytest.mark.parametrize("words", [["--version"], ["count", "--version"]], ids=" ".join)
def test_version_is_that_of_the_package(group: LazyGroup, words: list[str]) -> None:
    for _ in range(2):
        assert CliRunner().invoke(group, words).stdout == f"tool {__version__}\n"


def test_a_mistyped_command_gets_a_suggestion(group: LazyGroup) -> None:
    done = CliRunner().invoke(group, ["conut"])
    assert done.exit_code == 2
    assert "no command 'conut'; did you mean 'count'?" in done.output


@pytest.mark.parametrize(
    "error, code, message",
    [
        (ValueError("bad data"), 1, "error: bad data\n"),
        (OSError("disk is full"), 1, "error: disk is full\n"),
        (WrongUse("no such key"), 2, "error: no such key\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_one_line_and_an_exit_code(
    error: BaseException,
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @click.command()
    def fail() -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["tool"])
    monkeypatch.delenv("VCHAT_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as end:
        run_command(fail)
    assert end.value.code == code
    assert capsys.readouterr().err.lstrip("\n") == message


def test_a_traceback_is_shown_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def fail() -> None:
        raise ValueError("bad data")

    monkeypatch.setattr(sys, "argv", ["tool"])
    monkeypatch.setenv("VCHAT_TRACEBACK", "1")
    with pytest.raises(ValueError, match="bad data"):
        run_command(fail)


def test_a_reader_that_closes_the_pipe_is_no_traceback() -> None:
    code = (
        "import click; from vchat.base.cli import run_command\n"
        "@click.command()\n"
        "def chatter():\n"
        "    for number in range(10**6): print(number)\n"
        "run_command(chatter)"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
