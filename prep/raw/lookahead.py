"""Items in their order: with their reads started some time before, or several at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def with_prefetch(
    items: Iterable[T], prefetch: Callable[[T], object], *, depth: int
) -> Iterator[T]:
    """Yield every item in order; call `prefetch` with each while `depth` others come before it.

    `prefetch` starts slow reads and returns at once.
    """
    pending: deque[T] = deque()
    for item in items:
        prefetch(item)
        pending.append(item)
        if len(pending) > depth:
            yield pending.popleft()
    yield from pending


def group_by_weight(
    items: Iterable[T], *, weight: Callable[[T], int], max_weight: int
) -> Iterator[list[T]]:
    """Yield every item in order, in lists that end once they weigh `max_weight`; the last may not.

    The last list may be empty.
    """
    group: list[T] = []
    weighs = 0
    for item in items:
        group.append(item)
        weighs += weight(item)
        if weighs >= max_weight:
            yield group
            group, weighs = [], 0
    yield group
