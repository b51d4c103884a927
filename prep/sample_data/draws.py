"""Random draws from a key, equal on every machine and library version.

A draw is a 64-bit hash of (key, counter), so it depends only on the text of the key and on the
number of draws before it. No random generator of a library is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import xxhash

T = TypeVar("T")


class Draws:
    """An endless sequence of draws, named by a key such as `7/coco/42`."""

    def __init__(self, *key: object):
        """Equal keys give equal sequences; different keys give unrelated ones."""
        self._key = "/".join(str(part) for part in key)
        self._count = 0

    def below(self, limit: int) -> int:
        """Return a whole number from 0 to `limit` - 1; the bias of the modulus is below 1e-15."""
        if limit < 1:
            raise ValueError(f"a draw needs at least 1 choice, got {limit}")
        self._count += 1
        return xxhash.xxh3_64_intdigest(f"{self._key}#{self._count}".encode()) % limit

    def between(self, low: int, high: int) -> int:
        """Return a whole number from `low` to `high`, both included."""
        return low + self.below(high - low + 1)

    def pick(self, choices: Sequence[T]) -> T:
        """Return one of the choices."""
        return choices[self.below(len(choices))]

    def shuffle(self, choices: Sequence[T]) -> list[T]:
        """Return all choices in random order."""
        rest = list(choices)
        return [rest.pop(self.below(len(rest))) for _ in range(len(rest))]

    def some(self, choices: Sequence[T], number: int) -> list[T]:
        """Return `number` different choices in random order."""
        return self.shuffle(choices)[:number]
