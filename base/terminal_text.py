"""Text for a terminal: whatever a file, a set or a model says, no control character reaches it.

A terminal obeys control characters: they change titles, hide lines, or answer as if somebody had
typed. So all that is printed goes through here, shown as pictures of the characters; only line
breaks and tabs pass. Tests check that nothing else prints.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

_PICTURES = {
    code: 0x2400 + code if code < 0x20 else 0x2421
    for code in (*range(0x20), 0x7F)
    if chr(code) not in "\n\t"
} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
"""Control characters -> the characters that stand for them."""


def escape_controls(text: str) -> str:
    """Return text with pictures for its control characters other than line breaks and tabs."""
    return text.translate(_PICTURES)


def one_line(text: str) -> str:
    r"""Return text with the escape of each character that is not printable: `\n`, `\x1b`."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def echo(text: object = "", *, err: bool = False, bold: bool = False) -> None:
    """Print a line on stdout, or on stderr; what the stream cannot encode is escaped.

    Args:
        text: What to print.
        err: Whether to print on stderr.
        bold: Whether it is bold in a terminal.
    """
    stream = sys.stderr if err else sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    line = escape_controls(str(text)).encode(encoding, errors="backslashreplace").decode(encoding)
    stream.write(f"\x1b[1m{line}\x1b[0m\n" if bold and stream.isatty() else f"{line}\n")
    stream.flush()


def cell(text: object) -> Text:
    """Return text for a cell of a table: neither control characters nor markup have effect."""
    from rich.text import Text

    return Text(escape_controls(str(text)))


class SafeFormatter(logging.Formatter):
    """Formats log lines without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return escape_controls(super().format(record))
