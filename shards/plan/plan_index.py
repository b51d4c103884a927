"""The columns of a shard index that a plan needs, as arrays; it sees nothing else of the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vchat.base.arrays import offsets_from_counts
from vchat.shards.pixels.grid import ImageGrid
from vchat.shards.plan.ordering import TextColumn

Ints = NDArray[np.int64]

SAMPLES_PER_CHUNK = 1 << 20
"""How many samples to count at a time, so that temporary arrays are small beside the index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanIndex:
    """N samples of one split in index order; a sample's number is its index in these arrays."""

    digest: str
    """Digest of the whole index, from the manifest; it says what the sample numbers mean."""

    keys: TextColumn
    sources: tuple[str, ...]
    """Names of the sources, in order of first appearance."""

    source: NDArray[np.int32]
    """int32[N], numbers into `sources`."""

    text_tokens: NDArray[np.int32]
    """int32[N], without image slots."""

    supervised_tokens: NDArray[np.int32]
    num_images: NDArray[np.int32]
    image_sizes: NDArray[np.integer]
    """int[sum of num_images, 2], stored width and height, in the order of the samples."""

    shard: NDArray[np.int32]
    """int32[N], the shard's number in the manifest; over several sets, shards count on."""

    set_of_shard: NDArray[np.int32]
    """int32[shards], the shard set of each shard: all 0 if there is one set."""

    @classmethod
    def from_table(
        cls, table: pa.Table, *, digest: str, set_of_shard: NDArray[np.int32] | None = None
    ) -> PlanIndex:
        """Take the columns out of an index table of one split; by default it is of one set."""
        shard = table["shard"].to_numpy()
        if set_of_shard is None:
            set_of_shard = np.zeros(int(shard.max(initial=-1)) + 1, np.int32)
        sources, source = number_in_order(table["source"])
        sizes = pc.list_flatten(table["image_sizes"]).to_numpy()
        return cls(
            digest=digest,
            keys=text_column(table["key"]),
            sources=sources,
            source=source,
            text_tokens=table["text_tokens"].to_numpy(),
            supervised_tokens=table["supervised_tokens"].to_numpy(),
            num_images=table["num_images"].to_numpy(),
            image_sizes=sizes.reshape(-1, 2),
            shard=shard,
            set_of_shard=set_of_shard,
        )

    def __len__(self) -> int:
        return len(self.text_tokens)

    @property
    def num_sets(self) -> int:
        """Number of shard sets that the samples come from."""
        return int(self.set_of_shard.max(initial=0)) + 1

    def image_positions(self, grid: ImageGrid) -> NDArray[np.int32]:
        """Return int32[N]: how many positions the images of each sample take together."""
        return self._per_sample(grid.num_positions)

    def image_inputs(self, grid: ImageGrid) -> NDArray[np.int32]:
        """Return int32[N]: how many inputs of the tower the images of each sample are."""
        if grid.tiling is None:
            return self.num_images
        return self._per_sample(grid.num_inputs)

    def _per_sample(
        self, of_images: Callable[[NDArray[np.integer]], NDArray[np.int64]]
    ) -> NDArray[np.int32]:
        """Return int32[N]: a number per image, added up over the images of each sample."""
        totals = np.empty(len(self), np.int32)
        first = 0
        for start in range(0, len(self), SAMPLES_PER_CHUNK):
            counts = self.num_images[start : start + SAMPLES_PER_CHUNK]
            offsets = offsets_from_counts(counts)
            last = first + int(offsets[-1])
            so_far = offsets_from_counts(of_images(self.image_sizes[first:last]))
            totals[start : start + SAMPLES_PER_CHUNK] = np.diff(so_far[offsets])
            first = last
        return totals


def text_column(strings: pa.ChunkedArray) -> TextColumn:
    """Return a string column of an Arrow table without making a Python object per string."""
    array = strings.cast(pa.large_string()).combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    _, offset_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offset_buffer, dtype=np.int64)[array.offset :][: len(array) + 1]
    if len(array) == 0:
        return TextColumn.of([])
    data = np.frombuffer(data_buffer or b"", dtype=np.uint8)
    return TextColumn(data[offsets[0] : offsets[-1]], offsets - offsets[0])


def number_in_order(strings: pa.ChunkedArray) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Return the distinct strings in order of first appearance, and int32[N] numbers into them."""
    distinct = pc.unique(strings.cast(pa.string()))
    numbers = pc.index_in(strings.cast(pa.string()), value_set=distinct)
    return tuple(distinct.to_pylist()), numbers.to_numpy().astype(np.int32)
