"""What a mistyped name may have meant, for error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

CUTOFF = 0.5
"""How similar a name must be to be suggested, from 0 to 1, as difflib measures it."""


def nearest(name: str, known: Iterable[str], *, most: int = 1) -> list[str]:
    """Return the known names that are similar to `name`, the most similar first, at most `most`."""
    return difflib.get_close_matches(name, list(known), n=most, cutoff=CUTOFF)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `did you mean 'x'?`, or the list of known names if none is similar."""
    known = list(known)
    similar = nearest(name, known)
    return f"did you mean {similar[0]!r}?" if similar else f"known: {', '.join(known)}"
