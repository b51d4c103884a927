"""A process that renders one chat template: a program from outside, within bounds of its own.

Run as a script. The first line of its input is the template, each other line the variables of one
rendering; each is answered by one line. All lines are JSON. A rendering may take `MAX_CPU_S` of
processor time, after which the system ends the process, and write `MAX_CHARACTERS`; the process may
hold `MAX_MEMORY_BYTES`. It ends when its input does.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_CPU_S = 2.0
MAX_CHARACTERS = 2**20
MAX_MEMORY_BYTES = 2**29


class TooMuch(Exception):
    """A rendering exceeds a bound; the text says which, as the end of a sentence."""


class Generation(Extension):
    """The tag that marks answers in some chat templates; ignored, the sentinels mark answers."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares it so

    def parse(self, parser: Parser) -> list[Node]:
        """Return the nodes inside the tag."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def compile_template(text: str) -> jinja2.Template:
    """Compile a template in a sandbox, with the extensions that chat templates expect."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation]
    )
    environment.globals["raise_exception"] = _raise
    environment.filters["tojson"] = _to_json
    return environment.from_string(text)


def render(template: jinja2.Template, variables: dict[str, Any]) -> str:
    """Return what the template writes.

    Raises:
        TooMuch: That is too long.
    """
    pieces, length = [], 0
    for piece in template.generate(**variables):
        pieces.append(piece)
        length += len(piece)
        if length > MAX_CHARACTERS:
            raise TooMuch(f"writes more than {MAX_CHARACTERS:,} characters")
    return "".join(pieces)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _answer_line(
    template: jinja2.Template | None, line: str
) -> tuple[jinja2.Template, dict[str, str]]:
    """Return the template and the answer to one line: of the template itself, or of variables."""
    if template is None:
        return compile_template(json.loads(line)), {}
    return template, {"text": render(template, json.loads(line))}


def main() -> None:
    """Answer lines until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks decides when to end
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    template = None
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, MAX_CPU_S)
        try:
            template, answer = _answer_line(template, line)
        except TooMuch as error:
            answer = {"too_much": str(error)}
        except (MemoryError, RecursionError) as error:
            answer = {"too_much": f"needs too much memory or depth ({type(error).__name__})"}
        except jinja2.TemplateSyntaxError as error:
            answer = {"invalid": f"line {error.lineno}: {error}"}
        except Exception as error:  # whatever a program from outside raises
            answer = {"refused": str(error) or type(error).__name__}
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
