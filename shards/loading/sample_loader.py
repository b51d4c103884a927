"""One sample by its number: read and check, then decode; or a blank of the planned size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vchat.shards.loading.buffers import RowBuffer
from vchat.shards.loading.collate import LoadedSample, fill_row
from vchat.shards.loading.fetch import FetchedSample, SampleFetcher
from vchat.shards.loading.ranges import PendingRange
from vchat.shards.pixels.decode import Pixels, Scratch, decode_into, decode_tiles_into
from vchat.shards.pixels.grid import ImageGrid
from vchat.shards.plan.joined_sets import JoinedSets
from vchat.shards.storage.metrics import Metrics
from vchat.shards.storage.store import ShardError, UnreachableError

ATTEMPTS = 3
"""How often a sample is read whose bytes are wrong; what storage refuses has been tried before."""


class SampleLoader:
    """Loads samples of one split by number. Safe to use from several threads."""

    def __init__(
        self,
        sets: JoinedSets,
        *,
        grid: ImageGrid,
        image_size: int,
        metrics: Metrics,
    ):
        """Images are resized to a shorter side of `image_size`."""
        self.fetcher = SampleFetcher(sets)
        self._metrics = metrics
        self._index, self._image_id = sets.index, sets.image_id
        self._pad_id = sets.pad_id
        self._image_ends = np.cumsum(sets.index.num_images, dtype=np.int64)
        self._image_tokens = sets.index.image_positions(grid)
        self._grid = grid
        self._image_size = image_size
        self._scratch = Scratch()

    def read(self, number: int, *, pending: PendingRange | None = None) -> LoadedSample:
        """Return one sample with its images still encoded, or a blank if it cannot be had.

        Bytes that are wrong are read anew.

        Args:
            pending: has the sample's bytes, or is about to; without, they are read now.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._read_once(number, pending=pending if attempt == 1 else None)
            except ShardError as fault:
                if attempt == ATTEMPTS or isinstance(fault, UnreachableError):
                    return self._blank(number, fault=fault)
            self._metrics.count("retries")
        raise AssertionError("the last attempt returns")

    def fill_row(
        self, samples: Sequence[LoadedSample], buffer: RowBuffer, *, numbers: NDArray[np.integer]
    ) -> None:
        """Fill a row's ids, labels, positions and segments with samples of these numbers."""
        fill_row(
            samples,
            buffer,
            lengths=self._index.text_tokens[numbers] + self._image_tokens[numbers],
            positions=self._positions(numbers),
            image_id=self._image_id,
            pad_id=self._pad_id,
        )

    def decode(self, sample: LoadedSample, *, number: int, pixels: Pixels) -> LoadedSample:
        """Decode a sample's images; return it, or what takes its place if they cannot be.

        That is another reading of it, or a blank.

        Args:
            pixels: uint8[inputs, crop, crop, 3], black for a blank.
        """
        for attempt in range(1, ATTEMPTS + 1):
            if sample.fault is not None:
                break
            try:
                self._decode(sample.images, pixels, number=number)
            except ValueError as err:
                if attempt == ATTEMPTS:
                    sample = self._blank(number, fault=self.fetcher.decode_error(number, err))
                else:
                    self._metrics.count("retries")
                    sample = self.read(number)
            else:
                return sample
        pixels.fill(0)
        return sample

    def _read_once(self, number: int, *, pending: PendingRange | None) -> LoadedSample:
        fetched = self.fetcher.fetch(number, pending=pending)
        try:
            self._check_counts(fetched, number=number)
        except ValueError as err:
            raise self.fetcher.decode_error(number, err) from err
        return LoadedSample(
            key=self._index.keys[number],
            ids=fetched.ids,
            supervised=fetched.supervised,
            images=fetched.images,
        )

    def _decode(self, images: Sequence[memoryview], pixels: Pixels, *, number: int) -> None:
        """Fill uint8[inputs, crop, crop, 3] with the images of a sample, one after the other."""
        if self._grid.tiling is None:
            for data, place in zip(images, pixels, strict=True):
                decode_into(place, data, shorter_side=self._image_size, scratch=self._scratch)
            return
        sizes = self._image_sizes(number)
        ends = np.cumsum(self._grid.num_inputs(sizes))
        for data, size, places in zip(
            images, sizes.tolist(), np.split(pixels, ends[:-1]), strict=True
        ):
            decode_tiles_into(places, data, size=(size[0], size[1]), tiling=self._grid.tiling)

    def _blank(self, number: int, *, fault: ShardError) -> LoadedSample:
        """Return a sample of the planned length with the planned slots and no labels."""
        num_slots = int(self._index.num_images[number])
        ids = np.full(num_slots + int(self._index.text_tokens[number]), self._pad_id, np.int32)
        ids[:num_slots] = self._image_id
        return LoadedSample(
            key=self._index.keys[number],
            ids=ids,
            supervised=np.zeros(len(ids), np.bool_),
            fault=fault,
        )

    def _check_counts(self, fetched: FetchedSample, *, number: int) -> None:
        """Compare what was read with what the plan counted on."""
        num_slots = int(np.count_nonzero(fetched.ids == self._image_id))
        found = (
            len(fetched.ids) - num_slots,
            int(np.count_nonzero(fetched.supervised)),
            len(fetched.images),
        )
        wanted = (
            int(self._index.text_tokens[number]),
            int(self._index.supervised_tokens[number]),
            int(self._index.num_images[number]),
        )
        if found != wanted or len(fetched.supervised) != len(fetched.ids):
            raise ValueError(
                f"(text tokens, supervised tokens, images) are {found}, the index says {wanted}"
            )
        if num_slots != len(fetched.images):
            raise ValueError(f"{num_slots} image slots for {len(fetched.images)} images")

    def _positions(self, numbers: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return int64[images], the positions of each image of some samples, in their order."""
        num_images = int(self._index.num_images[numbers].sum())
        if self._grid.tiling is None or num_images == 0:  # then the sizes need not be looked up
            return np.full(num_images, self._grid.positions_per_input, np.int64)
        sizes = [self._image_sizes(number) for number in numbers.tolist()]
        return self._grid.num_positions(np.concatenate(sizes))

    def _image_sizes(self, number: int) -> NDArray[np.integer]:
        """Return int[images, 2], the stored width and height of each image of a sample."""
        end = self._image_ends[number]
        return self._index.image_sizes[end - self._index.num_images[number] : end]
