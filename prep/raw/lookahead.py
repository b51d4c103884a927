"""Items in their order: announced some time before their turn, or several at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def with_prefetch(
    items: Iterable[T], prefetch: Callable[[T], object], *, depth: int
) -> Iterator[T]:
    """Yield every item in order; `announce` hears of each when `ahead` others come before it.

    So slow reads can begin.
    """
    waiting: deque[T] = deque()
    for item in items:
        prefetch(item)
        waiting.append(item)
        if len(waiting) > depth:
            yield waiting.popleft()
    yield from waiting


def group_by_weight(
    items: Iterable[T], *, weight: Callable[[T], int], max_weight: int
) -> Iterator[list[T]]:
    """Yield every item in order, in lists that end with the item that makes them weigh `most`."""
    group: list[T] = []
    weighs = 0
    for item in items:
        group.append(item)
        weighs += weight(item)
        if weighs >= max_weight:
            yield group
            group, weighs = [], 0
    yield group
