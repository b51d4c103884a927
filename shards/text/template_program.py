"""A chat template as a program that is run in a process of its own, within bounds.

A template comes with a tokenizer from outside, and can loop for ever or write without end. So a
rendering has bounds of time, output and memory, which `template_process` states and keeps.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from vchat.shards.text import template_process


class TemplateRefusal(ValueError):
    """A template raises an error for the given messages."""


class TemplateExcess(ValueError):
    """A rendering exceeds a bound; the text says which, as the end of a sentence."""


class TemplateProgram:
    """One chat template; its process starts with the first rendering. Thread-safe."""

    def __init__(self, text: str):
        """Take the template, in the Jinja language; `render` compiles it."""
        self._text = text
        self._lock = threading.Lock()
        self._owner = -1
        """The process id for which `_process` was started: a fork starts its own."""
        self._process: subprocess.Popen[str] | None = None

    def render(self, variables: Mapping[str, Any]) -> str:
        """Return what the template writes.

        Raises:
            SyntaxError: The template is not valid; the text begins with the line.
            TemplateRefusal: It raises an error.
            TemplateExcess: It takes too long, or writes or holds too much.
        """
        if self._owner != os.getpid():
            self._lock, self._process, self._owner = threading.Lock(), None, os.getpid()
        with self._lock:
            if self._process is None:
                self._start()
            answer = self._ask(dict(variables))
        if "too_much" in answer:
            raise TemplateExcess(answer["too_much"])
        if "refused" in answer:
            raise TemplateRefusal(answer["refused"])
        return answer["text"]

    def _start(self) -> None:
        command = [sys.executable, "-P", str(Path(template_process.__file__))]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, encoding="utf-8"
        )
        weakref.finalize(self, _end, self._process)
        answer = self._ask(self._text)
        if "invalid" in answer:
            self._stop()
            raise SyntaxError(answer["invalid"])
        if answer:
            self._stop()
            raise TemplateExcess(next(iter(answer.values())))

    def _ask(self, line: Any) -> dict[str, str]:
        """Send one line and return the answer; without one, the process has been ended."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(line) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if answer:
            found: dict[str, str] = json.loads(answer)
            return found
        self._stop()
        return {"too_much": f"takes more than {template_process.MAX_CPU_S:g} s, or too much memory"}

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """Close the input of a process, which ends it, and wait for that."""
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            if pipe is not None:
                pipe.close()
    process.wait()


@lru_cache(maxsize=4)
def template_program(text: str) -> TemplateProgram:
    """Return the program of a template; the latest few keep their processes."""
    return TemplateProgram(text)
