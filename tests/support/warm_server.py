"""The program behind `warm`: imports the trainer once, then forks for every process asked for.

Reads one request per line from standard input, a JSON object (`warm.Request`), and answers on
standard output with the list of exit codes. Ends with its input.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

PRELOADED = (
    "vchat.train.run.launch",
    "vchat.train.commands.main",
    "vchat.train.convert.export",
    "transformers.models.clip.modeling_clip",
    "transformers.models.llama.modeling_llama",
    "torch._dynamo",
)
"""None of them starts a thread, which a fork would not have."""

GRACE_S = 20.0
"""How long the other processes may go on after one has failed."""


def main() -> None:
    """Answer requests until there are no more."""
    from vchat.train.engine.processes import prepare_environment

    prepare_environment()
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        children = []
        for number in range(len(request["environments"])):
            child = os.fork()
            if child == 0:
                begin(request, number)
                call(request)
                return
            children.append(child)
        print(json.dumps(wait(children, timeout_s=request["timeout_s"])), file=answers, flush=True)


def begin(request: dict[str, Any], number: int) -> None:
    """Make this fork look like a process that was started with arguments and an environment."""
    os.environ.clear()
    os.environ.update(request["environments"][number])
    os.chdir(request["folder"])
    nothing = os.open(request["input"], os.O_RDONLY)
    os.dup2(nothing, 0)
    for descriptor, path in zip((1, 2), request["outputs"][number], strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    sys.argv = request["program"]


def call(request: dict[str, Any]) -> None:
    """Call the function; its `SystemExit` or exception ends the process as everywhere."""
    find_function(request["call"])(*request["arguments"])


def find_function(name: str) -> Callable[..., object]:
    """Return the function that `MODULE:FUNCTION` or `FILE.py:FUNCTION` names."""
    place, _, function = name.rpartition(":")
    if not place.endswith(".py"):
        return getattr(importlib.import_module(place), function)  # type: ignore[no-any-return]
    spec = importlib.util.spec_from_file_location("called", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, function)  # type: ignore[no-any-return]


def wait(children: Sequence[int], *, timeout_s: float) -> list[int]:
    """Return the exit codes of all processes, negative for a signal; kill those that take long."""
    codes: dict[int, int] = {}
    deadline = time.monotonic() + timeout_s
    while len(codes) < len(children):
        for child in set(children) - set(codes):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                codes[child] = os.waitstatus_to_exitcode(status)
                if codes[child]:
                    deadline = min(deadline, time.monotonic() + GRACE_S)
            elif time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    return [codes[child] for child in children]


if __name__ == "__main__":
    main()
