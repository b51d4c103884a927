"""Text from outside as one line that is safe to print."""

from __future__ import annotations


def one_line(text: str) -> str:
    r"""Return text with the escape of each character that is not printable: `\n`, `\x1b`."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
