"""Pack samples into rows: best fit, longest first, on a histogram instead of on samples.

A sample has a length in positions and a number of images; a row has a budget of each. Samples of
equal (length, images) are one *type*, rows with equal room left are one *heap*, and one step of the
packer puts many samples of a type onto many rows of a heap. So the cost grows with the number of
different types, not of samples: about 2 s for 10 million.

Lengths are counted in *units* of a few positions, rounded up, so that there are few types; a unit
is 1/256 of the mean length, which costs about 0.2 % of the room.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Pattern = tuple[int, ...]
"""The types of the samples in a row."""

UNITS_PER_MEAN_LENGTH = 256


class Room(NamedTuple):
    """What is left in a row."""

    units: int
    images: int


@dataclass(slots=True)
class OpenRows:
    """Rows that are not full, in heaps by the room they have left."""

    heaps: dict[Room, list[tuple[Pattern, int]]] = field(default_factory=dict)
    """Patterns with the number of rows that have them."""

    units_free: dict[int, int] = field(default_factory=dict)
    """For each number of free images, which unit counts occur, as the bits of one integer."""

    def best(self, *, units: int, images: int) -> Room | None:
        """Return the least room that holds a sample of this size, or None."""
        best: Room | None = None
        for free_images, bits in self.units_free.items():
            fitting = bits >> units if free_images >= images else 0
            if fitting:
                free_units = units + (fitting & -fitting).bit_length() - 1
                room = Room(free_units, free_images)
                best = room if best is None else min(best, room)
        return best

    def add(self, room: Room, *, pattern: Pattern, num_rows: int) -> None:
        """Put rows with this room back."""
        self.heaps.setdefault(room, []).append((pattern, num_rows))
        self.units_free[room.images] = self.units_free.get(room.images, 0) | (1 << room.units)

    def take(self, room: Room) -> tuple[Pattern, int]:
        """Take out the rows of one pattern that have exactly this room."""
        heap = self.heaps[room]
        taken = heap.pop()
        if not heap:
            self.units_free[room.images] &= ~(1 << room.units)
            if not self.units_free[room.images]:
                del self.units_free[room.images]
        return taken

    def patterns(self) -> list[tuple[Pattern, int]]:
        """All rows, heap by heap in the order the heaps came into being."""
        return [entry for heap in self.heaps.values() for entry in heap]


def pack(
    lengths: Ints, num_images: Ints, *, tokens_per_row: int, images_per_row: int
) -> tuple[Ints, Ints]:
    """Pack samples into rows and return `(row_offsets, order)`, int64[R + 1] and int64[N].

    Row r holds the samples `order[row_offsets[r]:row_offsets[r + 1]]`. Every sample is in exactly
    one row and no row is over a budget. Among samples of one type, the earlier one is placed first.

    Raises:
        ValueError: a sample alone is over a budget.
    """
    if len(lengths) == 0:
        return np.zeros(1, np.int64), np.zeros(0, np.int64)
    if lengths.max() > tokens_per_row or num_images.max() > images_per_row or lengths.min() < 1:
        raise ValueError(
            f"samples must have 1 to {tokens_per_row} positions, at most {images_per_row} images, "
            f"got {lengths.min()} to {lengths.max()} positions, at most {num_images.max()} images"
        )
    positions_per_unit = max(1, int(lengths.sum()) // len(lengths) // UNITS_PER_MEAN_LENGTH)
    row_units = tokens_per_row // positions_per_unit
    units = np.minimum(-(-lengths // positions_per_unit), row_units)
    images_per_row = min(images_per_row, int(num_images.sum()))
    sizes = units * (images_per_row + 1) + num_images
    by_size = np.argsort(-sizes, kind="stable")
    distinct, type_counts = np.unique(-sizes, return_counts=True)
    types = [divmod(int(-size), images_per_row + 1) for size in distinct]
    patterns = best_fit(types, type_counts.tolist(), row=Room(row_units, images_per_row))
    row_offsets, row_types = unfolded(patterns)
    order = np.empty(len(lengths), np.int64)
    order[np.argsort(row_types, kind="stable")] = by_size
    return row_offsets, order


def best_fit(
    types: list[tuple[int, int]], counts: list[int], *, row: Room
) -> list[tuple[Pattern, int]]:
    """Return patterns and how many rows have each, so that each type is used `counts` times.

    Args:
        types: (units, images) of each type, the longest first.
        row: the room of an empty row.
    """
    open_rows = OpenRows()
    for number, (units, images) in enumerate(types):
        left = counts[number]
        while left:
            room = open_rows.best(units=units, images=images)
            pattern, num_rows = open_rows.take(room) if room else ((), left)
            opened = room is None
            room = room or row
            copies = copies_that_fit(room, units=units, images=images)
            used = min(num_rows, left // copies)
            if used == 0:
                used, copies = 1, left
            if not opened and num_rows > used:
                open_rows.add(room, pattern=pattern, num_rows=num_rows - used)
            left -= used * copies
            rest = Room(room.units - copies * units, room.images - copies * images)
            open_rows.add(rest, pattern=pattern + (number,) * copies, num_rows=used)
    return open_rows.patterns()


def copies_that_fit(room: Room, *, units: int, images: int) -> int:
    """Return how many samples of one size fit into the room: at least one must."""
    copies = room.units // units
    return min(copies, room.images // images) if images else copies


def unfolded(patterns: list[tuple[Pattern, int]]) -> tuple[Ints, NDArray[np.unsignedinteger]]:
    """Return the row offsets int64[R + 1] and the type of every place in every row, uint[N]."""
    sizes: list[int] = []
    types: list[int] = []
    for pattern, num_rows in patterns:
        sizes += [len(pattern)] * num_rows
        types += pattern * num_rows
    # 16-bit types, the usual case, are sorted by counting instead of comparing.
    row_types = np.array(types, dtype=np.min_scalar_type(max(types)))
    return np.cumsum([0, *sizes], dtype=np.int64), row_types
