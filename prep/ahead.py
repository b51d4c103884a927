"""Items in their order, each announced some time before its turn, so that slow reads can begin."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def announced(items: Iterable[T], announce: Callable[[T], object], *, ahead: int) -> Iterator[T]:
    """Yield every item in order; `announce` hears of each when `ahead` others come before it."""
    waiting: deque[T] = deque()
    for item in items:
        announce(item)
        waiting.append(item)
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting
