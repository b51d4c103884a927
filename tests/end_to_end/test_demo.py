"""`demo.sh` goes through its commands in order, and stops where one of them has stopped."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "demo.sh"
COMMANDS = ("vchat-prep", "vchat-shards", "vchat-train", "vchat-chat", "deepspeed")
STUB = """#!/bin/sh
echo "$(basename "$0") $1" >> "$CALLS"
if [ "$(basename "$0")" = deepspeed ]; then
  mkdir -p "$FOLDER/run"
  if [ "$LATEST" ]; then echo "$LATEST" > "$FOLDER/run/latest"; fi
  if [ "$FINISHES" = yes ]; then echo done > "$FOLDER/run/finished"; fi
fi
"""


def run_demo(
    tmp_path: Path, *, finishes: bool, latest: str = "step-000500"
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run the script with commands that only note that they were called."""
    for name in COMMANDS:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(STUB)
        path.chmod(0o755)
    calls, folder = tmp_path / "calls", tmp_path / "demo"
    variables = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "CALLS": str(calls),
        "FOLDER": str(folder),
        "FINISHES": "yes" if finishes else "no",
        "LATEST": latest,
    }
    done = subprocess.run(
        [SCRIPT, folder], capture_output=True, text=True, env=os.environ | variables
    )
    return done, calls.read_text().splitlines()


def test_all_commands_run_in_order(tmp_path: Path) -> None:
    done, calls = run_demo(tmp_path, finishes=True)
    assert done.returncode == 0, done.stderr
    assert calls == [
        *("vchat-prep sample-data", "vchat-prep build"),
        *("vchat-shards inspect", "vchat-shards verify", "vchat-shards show", "vchat-shards html"),
        *("deepspeed --num_accelerators", "vchat-train eval", "vchat-chat --checkpoint"),
    ]


def test_a_stopped_training_is_not_evaluated_as_if_it_were_finished(tmp_path: Path) -> None:
    done, calls = run_demo(tmp_path, finishes=False)
    assert done.returncode == 1
    assert calls[-1] == "deepspeed --num_accelerators"
    assert "training has stopped before its end, after step-000500" in done.stderr


def test_a_training_that_stopped_before_its_first_checkpoint_says_so(tmp_path: Path) -> None:
    done, _ = run_demo(tmp_path, finishes=False, latest="")
    assert done.returncode == 1
    assert "training has stopped before its end, after no step; run" in done.stderr
    assert "No such file" not in done.stderr


@pytest.mark.parametrize("command", ["vchat-prep", "vchat-shards", "deepspeed"])
def test_a_command_that_fails_ends_the_demo(tmp_path: Path, command: str) -> None:
    (tmp_path / "bin").mkdir()
    failing = tmp_path / "bin" / command
    run_demo(tmp_path, finishes=True)
    failing.write_text("#!/bin/sh\nexit 3\n")
    variables = {"PATH": f"{failing.parent}:{os.environ['PATH']}", "CALLS": str(tmp_path / "more")}
    variables |= {"FOLDER": str(tmp_path / "again"), "FINISHES": "yes", "LATEST": ""}
    command_line = [SCRIPT, tmp_path / "again"]
    assert subprocess.run(command_line, env=os.environ | variables).returncode == 3
