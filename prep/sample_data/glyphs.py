"""The letters of the printed words: 5 by 7 dots each, so that no font file is needed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, GAP = 5, 7, 1
"""Dots of one letter, and between two letters."""

_ROWS = {
    "a": "01110 10001 10001 11111 10001 10001 10001",
    "b": "11110 10001 10001 11110 10001 10001 11110",
    "c": "01111 10000 10000 10000 10000 10000 01111",
    "e": "11111 10000 10000 11110 10000 10000 11111",
    "f": "11111 10000 10000 11110 10000 10000 10000",
    "g": "01111 10000 10000 10011 10001 10001 01111",
    "i": "11111 00100 00100 00100 00100 00100 11111",
    "j": "00111 00010 00010 00010 00010 10010 01100",
    "k": "10001 10010 10100 11000 10100 10010 10001",
    "l": "10000 10000 10000 10000 10000 10000 11111",
    "m": "10001 11011 10101 10101 10001 10001 10001",
    "n": "10001 11001 11001 10101 10011 10011 10001",
    "o": "01110 10001 10001 10001 10001 10001 01110",
    "p": "11110 10001 10001 11110 10000 10000 10000",
    "s": "01111 10000 10000 01110 00001 00001 11110",
    "t": "11111 00100 00100 00100 00100 00100 00100",
    "u": "10001 10001 10001 10001 10001 10001 01110",
    "w": "10001 10001 10001 10101 10101 11011 10001",
    "x": "10001 10001 01010 00100 01010 10001 10001",
    "y": "10001 10001 01010 00100 00100 00100 00100",
}


def dots(word: str) -> NDArray[np.bool_]:
    """Return the printed word as bool[7, 6 n - 1] for n letters, True where there is ink.

    Raises:
        ValueError: Naming a letter that has no glyph.
    """
    page = np.zeros((HEIGHT, len(word) * (WIDTH + GAP) - GAP), dtype=bool)
    for number, letter in enumerate(word):
        if letter not in _ROWS:
            raise ValueError(
                f"letter {letter!r} of {word!r} has no glyph; there are {''.join(_ROWS)}"
            )
        glyph = [[dot == "1" for dot in row] for row in _ROWS[letter].split()]
        left = number * (WIDTH + GAP)
        page[:, left : left + WIDTH] = glyph
    return page
