"""No control character of foreign text reaches a terminal, and nothing prints past that check."""

import ast
import io
import logging
import sys
from pathlib import Path

import click
import pytest
from rich.console import Console
from rich.table import Table

from vchat.base.cli import WrongUse, run_command
from vchat.base.terminal_text import SafeFormatter, cell, echo, escape_controls

ROOT = Path(__file__).parents[2]
FILES = sorted(
    path
    for package in ("base", "prep", "shards", "model", "train")
    for path in (ROOT / package).rglob("*.py")
    if path.name not in ("terminal_text.py", "template_process.py")  # the latter writes to a pipe
)
HOSTILE = "a\x1b]0;title\x07\x1b[2J\x9b1m\x7f\rb\tc"
SHOWN = "a\u241b]0;title\u2407\u241b[2J\ufffd1m\u2421\u240db\tc"


def test_control_characters_are_shown_as_pictures():
    assert escape_controls(HOSTILE) == SHOWN
    assert escape_controls("two\nlines \u05e9 \U0001f600") == "two\nlines \u05e9 \U0001f600"


@pytest.mark.parametrize("err", [False, True])
def test_a_line_is_printed_without_control_characters(capsys, err):
    echo(HOSTILE, err=err)
    found = capsys.readouterr()
    assert (found.err if err else found.out) == f"{SHOWN}\n"


def test_what_a_stream_cannot_encode_is_escaped(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    echo("caf\u00e9 \udcff")
    assert stream.buffer.getvalue() == b"caf\\xe9 \\udcff\n"


def test_a_cell_shows_its_text_whatever_it_holds():
    table = Table("name")
    table.add_row(cell(f"[red]{HOSTILE}[/nothing]"))
    out = io.StringIO()
    Console(file=out, width=100).print(table)
    assert not set(out.getvalue()) & set("\x1b\x07\x9b\x7f\r")
    assert "[red]a\u241b]0;title" in out.getvalue()


def test_a_log_line_has_no_control_characters():
    record = logging.LogRecord("vchat", logging.INFO, "", 0, "read %s", (HOSTILE,), None)
    assert SafeFormatter("%(message)s").format(record) == f"read {SHOWN}"


@pytest.mark.parametrize(
    "error",
    [ValueError(HOSTILE), WrongUse(HOSTILE), OSError(HOSTILE), click.UsageError(HOSTILE)],
    ids=lambda error: type(error).__name__,
)
def test_an_error_line_has_no_control_characters(capsys, monkeypatch, error):
    @click.command()
    def fail() -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["tool"])
    monkeypatch.delenv("VCHAT_TRACEBACK", raising=False)
    with pytest.raises(SystemExit):
        run_command(fail)
    found = capsys.readouterr().err
    assert "a\u241b]0;title\u2407" in found
    assert not set(found) & set("\x1b\x07\x9b\x7f\r")


def prints_past_the_check(node: ast.AST) -> bool:
    """Tell whether a call writes to a standard stream by itself."""
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Name):
        return node.func.id == "print"
    called = ast.unparse(node.func)
    return called in ("click.echo", "click.secho", "sys.stdout.write", "sys.stderr.write")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_prints_past_the_check(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert [node.lineno for node in ast.walk(tree) if prints_past_the_check(node)] == []
