"""Pack samples into rows: best fit, longest first, on a histogram instead of on samples.

A sample has a length in positions and a number of images; a row has a budget of each. Samples of
equal (length, images) are one *type*, rows with equal free space are one *heap*, and one step of
the packer puts many samples of a type onto many rows of a heap. So the cost grows with the number
of different types, not of samples: 4 s for 10 million, packed 40,000 at a time.

Lengths count in *units* of a few positions, rounded up, so that there are few types; a unit is
1/192 of the mean length, which wastes about 0.3 % of the positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from vchat.base.arrays import offsets_from_counts

Ints = NDArray[np.int64]
Pattern = tuple[int, ...]
"""The types of the samples in a row."""

UNITS_PER_MEAN_LENGTH = 192


@dataclass(slots=True)
class OpenRows:
    """Rows with free space, in heaps by how much."""

    heaps: dict[int, dict[int, list[tuple[Pattern, int]]]]
    """Free units -> free images -> patterns, each with the number of rows that have it."""

    holding: list[int]
    """`holding[k]` has bit u set if some row has u free units and at least k free images."""

    @classmethod
    def empty(cls, *, max_images: int) -> OpenRows:
        """Start without rows; rows to come have at most `max_images` free images."""
        return cls({}, [0] * (max_images + 1))

    def best(self, *, units: int, images: int) -> tuple[int, int] | None:
        """Return the least free `(units, images)` that hold a sample of this size, or None."""
        fitting = self.holding[images] >> units
        if not fitting:
            return None
        free_units = units + (fitting & -fitting).bit_length() - 1
        return free_units, min(free for free in self.heaps[free_units] if free >= images)

    def add(self, units: int, images: int, *, pattern: Pattern, num_rows: int) -> None:
        """Add rows with this much free space."""
        self.heaps.setdefault(units, {}).setdefault(images, []).append((pattern, num_rows))
        bit = 1 << units
        for k in range(images, -1, -1):
            if self.holding[k] & bit:
                break
            self.holding[k] |= bit

    def take(self, units: int, images: int) -> tuple[Pattern, int]:
        """Remove the rows of one pattern that have exactly this much free space."""
        heaps = self.heaps[units]
        taken = heaps[images].pop()
        if not heaps[images]:
            del heaps[images]
            for k in range(max(heaps, default=-1) + 1, images + 1):
                self.holding[k] &= ~(1 << units)
        return taken

    def patterns(self) -> list[tuple[Pattern, int]]:
        """Return all rows, in the order in which their amounts of free space first occurred."""
        heaps = [heap for by_images in self.heaps.values() for heap in by_images.values()]
        return [pattern_and_count for heap in heaps for pattern_and_count in heap]


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
    most_images = int(num_images.max())
    sizes = units * (most_images + 1) + num_images
    by_size = np.argsort(-sizes, kind="stable")
    distinct, type_counts = np.unique(-sizes, return_counts=True)
    types = [divmod(int(-size), most_images + 1) for size in distinct]
    patterns = best_fit(
        types, type_counts.tolist(), units_per_row=row_units, images_per_row=images_per_row
    )
    row_offsets, row_types = unfold_patterns(patterns)
    order = np.empty(len(lengths), np.int64)
    order[np.argsort(row_types, kind="stable")] = by_size
    return row_offsets, order


def best_fit(
    types: list[tuple[int, int]], counts: list[int], *, units_per_row: int, images_per_row: int
) -> list[tuple[Pattern, int]]:
    """Return patterns and how many rows have each; they hold `counts` samples of each type.

    Free images that no sample could use, for lack of units, do not count: rows that differ only in
    these share a heap.

    Args:
        types: (units, images) of each type, the longest first.
    """
    units, images = max(types, key=lambda size: size[1] / size[0])
    densest = Fraction(images, units)
    most, per = densest.numerator, densest.denominator  # at most `most` images in `per` units
    images_per_row = min(images_per_row, units_per_row * most // per)
    rows = OpenRows.empty(max_images=images_per_row)
    for number, (units, images) in enumerate(types):
        left = counts[number]
        while left:
            best = rows.best(units=units, images=images)
            if best:
                free_units, free_images = best
                pattern, num_rows = rows.take(free_units, free_images)
            else:
                free_units, free_images, pattern, num_rows = units_per_row, images_per_row, (), left
            copies = copies_that_fit(free_units, free_images, units=units, images=images)
            used = min(num_rows, left // copies)
            if used == 0:
                used, copies = 1, left
            if best and num_rows > used:
                rows.add(free_units, free_images, pattern=pattern, num_rows=num_rows - used)
            left -= used * copies
            free_units -= copies * units
            free_images = min(free_images - copies * images, free_units * most // per)
            rows.add(free_units, free_images, pattern=pattern + (number,) * copies, num_rows=used)
    return rows.patterns()


def copies_that_fit(free_units: int, free_images: int, *, units: int, images: int) -> int:
    """Return how many samples of one size fit into this space; one at least must fit."""
    copies = free_units // units
    return min(copies, free_images // images) if images else copies


def unfold_patterns(
    patterns: list[tuple[Pattern, int]],
) -> tuple[Ints, NDArray[np.unsignedinteger]]:
    """Return the row offsets int64[R + 1] and the type of every sample, row after row, uint[N]."""
    sizes: list[int] = []
    types: list[int] = []
    for pattern, num_rows in patterns:
        sizes += [len(pattern)] * num_rows
        types += pattern * num_rows
    # 16-bit types, the usual case, are sorted by counting instead of comparing.
    row_types = np.array(types, dtype=np.min_scalar_type(max(types)))
    return offsets_from_counts(sizes), row_types
