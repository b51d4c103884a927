"""The terminal chat: lines in, streamed text out.

A line is a command (`/image PATH`, `/clear`, `/help`, `/quit`) or a question. The next question
shows the images added before it, in their order. An error is printed as one line on `err`, and the
chat goes on. This module does not look into tokens or tensors.
"""

from __future__ import annotations

import contextlib
import glob
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from torch import Tensor

from vchat.base.nearest import nearest
from vchat.base.terminal_text import echo, escape_controls
from vchat.train.chat.session import ChatSession, EndReason

HELP = """\
/image PATH   show an image with the next question; repeat for several
/clear        forget the dialogue and its images
/help         this list
/quit         leave (also: end of input)
Anything else is a question. Ctrl-C stops an answer."""

COMMANDS = ("/image", "/clear", "/help", "/quit")
MAX_IMAGE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A parsed line: a command and its argument, or a question (`command` is empty)."""

    command: str
    text: str


def parse_line(line: str) -> Line:
    """Split a line into command and argument.

    Raises:
        ValueError: The line starts with `/` and is no command; suggests the nearest.
    """
    line = line.strip()
    if not line.startswith("/"):
        return Line(command="", text=line)
    command, _, text = line.partition(" ")
    if command not in COMMANDS:
        similar = nearest(command, COMMANDS)
        hint = f"did you mean {similar[0]}?" if similar else "/help lists the commands"
        raise ValueError(f"unknown command {command!r}: {hint}")
    return Line(command=command, text=text.strip())


def image_path(text: str) -> Path:
    """Return the file that the argument of `/image` names: plain, quoted, or shell-escaped.

    Raises:
        ValueError: There is no such file.
    """
    if not text:
        raise ValueError("/image wants a path: /image PATH")
    path = Path(text).expanduser()
    if not path.exists():
        with contextlib.suppress(ValueError):  # unbalanced quotes: the text is the path
            words = shlex.split(text)
            path = Path(words[0]).expanduser() if len(words) == 1 else path
    if not path.exists():
        raise ValueError(f"{path}: no such file, wanted an image")
    if not path.is_file():
        raise ValueError(f"{path}: not a file, wanted an image")
    return path


def completions(line: str) -> list[str]:
    """Return the completions of a line for the Tab key: commands, or files after `/image `."""
    if line.startswith("/image "):
        start = str(Path(line.removeprefix("/image ") + "x").expanduser())[:-1]
        found = sorted(glob.glob(glob.escape(start) + "*"))  # noqa: PTH207, no folder yet
        return [f"/image {name}/" if Path(name).is_dir() else f"/image {name}" for name in found]
    return [command for command in COMMANDS if line.startswith("/") and command.startswith(line)]


class TerminalChat:
    """A chat in a terminal: a session, and the pending images of the next question."""

    def __init__(self, session: ChatSession, *, out: TextIO, err: TextIO):
        """Answers are written to `out` piece by piece, notes and errors to `err`."""
        self.session = session
        self._pending_images: list[Tensor] = []
        self._out = out
        self._err = err

    @property
    def prompt(self) -> str:
        """The prompt of the user's next line."""
        number = len(self._pending_images)
        return f"[{number} image{'s' if number > 1 else ''}] you> " if number else "you> "

    def handle(self, line: str) -> bool:
        """Execute one line; return False if it is `/quit`. Errors are printed, not raised."""
        try:
            parsed = parse_line(line)
            if parsed.command == "/quit":
                return False
            self._do(parsed)
        except (ValueError, OSError) as error:
            self._note(f"error: {error}")
        return True

    def _do(self, line: Line) -> None:
        if line.command == "/image":
            self._show(image_path(line.text))
        elif line.command == "/clear":
            self.session.clear()
            self._pending_images.clear()
            self._note("cleared: no rounds, no images")
        elif line.command == "/help":
            self._note(HELP)
        elif line.text:
            self._ask(line.text)

    def _show(self, path: Path) -> None:
        size = path.stat().st_size
        if size > MAX_IMAGE_BYTES:
            raise ValueError(f"{path}: {size} bytes, wanted an image of at most {MAX_IMAGE_BYTES}")
        try:
            self._pending_images.append(self.session.chat_model.decode_picture(path.read_bytes()))
        except ValueError as err:
            raise ValueError(f"{path}: {err}") from err
        number = self.session.num_images + len(self._pending_images)
        self._note(f"image {number}: {path} (shown with the next question)")

    def _ask(self, question: str) -> None:
        num_rounds = len(self.session.rounds)
        pieces = self.session.ask(question, images=self._pending_images)
        with contextlib.suppress(KeyboardInterrupt), contextlib.closing(pieces):
            for piece in pieces:
                self._out.write(escape_controls(piece))
                self._out.flush()
        if len(self.session.rounds) == num_rounds:
            self._note("(stopped before the answer; the question is forgotten)")
            return
        self._pending_images.clear()
        self._out.write("\n")
        ended = self.session.rounds[-1].end_reason
        if ended is not EndReason.BY_MODEL:
            self._note(f"({ended.value})")

    def _note(self, text: str) -> None:
        self._out.flush()
        self._err.write(escape_controls(text) + "\n")
        self._err.flush()


def read_typed_lines(
    prompt: Callable[[], str], *, read: Callable[[str], str], err: TextIO
) -> Iterator[str]:
    """Yield the lines that a person types until end of input; Ctrl-C discards one line."""
    while True:
        try:
            yield read(prompt())
        except EOFError:
            err.write("\n")
            return
        except KeyboardInterrupt:
            err.write("\n(/quit leaves)\n")


def read_piped_lines(
    lines: Iterable[str], prompt: Callable[[], str], *, out: TextIO
) -> Iterator[str]:
    """Yield the lines of a pipe; write each to `out`, so that the output is a dialogue."""
    for line in lines:
        line = line.rstrip("\r\n")
        if line.strip():
            out.write(f"{prompt()}{escape_controls(line)}\n")
            yield line


def converse(conversation: TerminalChat, lines: Iterable[str]) -> None:
    """Handle lines until they end or one is `/quit`."""
    for line in lines:
        if not conversation.handle(line):
            return


def talk(session: ChatSession, *, greeting: str) -> None:
    """Chat on the standard streams of this process: with a person, or with a pipe."""
    conversation = TerminalChat(session, out=sys.stdout, err=sys.stderr)
    if sys.stdin.isatty():
        _enable_line_editing()
        echo(greeting, err=True)
        lines = read_typed_lines(lambda: conversation.prompt, read=input, err=sys.stderr)
    else:
        lines = read_piped_lines(sys.stdin, lambda: conversation.prompt, out=sys.stdout)
    converse(conversation, lines)


def _enable_line_editing() -> None:
    """Give `input` line editing, history and completion, if this Python has readline."""
    try:
        import readline
    except ImportError:
        return
    readline.set_completer_delims("")
    readline.set_completer(lambda text, number: dict(enumerate(completions(text))).get(number))
    readline.parse_and_bind("tab: complete")
