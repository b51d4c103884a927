"""A row of samples by their numbers: read, check and decode each, then fill the row's buffer.

A sample that cannot be had becomes a blank of the planned size: no labels, black images.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vchat.base.arrays import offsets_from_counts
from vchat.shards.format.members import ATTEMPTS
from vchat.shards.loading.buffers import RowBuffer
from vchat.shards.loading.collate import LoadedSample, fill_row
from vchat.shards.loading.fetch import FetchedSample, SampleFetcher
from vchat.shards.loading.ranges import PendingRange
from vchat.shards.pixels.decode import Scratch, decode_into, decode_tiles_into
from vchat.shards.pixels.grid import ImageGrid
from vchat.shards.pixels.resize import Pixels
from vchat.shards.plan.joined_sets import JoinedSets
from vchat.shards.storage.metrics import Metrics
from vchat.shards.storage.store import ShardError, UnreachableError


@dataclass(frozen=True, slots=True)
class LoadedRow:
    """What remains to be known of a row whose samples are in the buffer of its batch."""

    keys: list[str]
    num_supervised: int
    faults: list[ShardError]
    """Why samples are blank; empty if none is."""

    @classmethod
    def from_samples(cls, samples: Sequence[LoadedSample]) -> LoadedRow:
        """Summarize the samples of a row."""
        return cls(
            keys=[sample.key for sample in samples],
            num_supervised=sum(int(np.count_nonzero(sample.supervised)) for sample in samples),
            faults=[sample.fault for sample in samples if sample.fault is not None],
        )


class SampleLoader:
    """Loads samples of one split by number. Safe to use from several threads."""

    def __init__(
        self,
        sets: JoinedSets,
        fetcher: SampleFetcher,
        *,
        grid: ImageGrid,
        image_size: int,
        metrics: Metrics,
    ):
        """Resize images to a shorter side of `image_size` pixels."""
        self._fetcher = fetcher
        self._metrics = metrics
        self._index, self._image_id = sets.index, sets.image_id
        self._pad_id, self._num_ids = sets.pad_id, sets.num_ids
        self._image_offsets = offsets_from_counts(sets.index.num_images)
        self._image_tokens = sets.index.image_positions(grid)
        self._num_inputs = sets.index.image_inputs(grid)
        self._grid = grid
        self._image_size = image_size
        self._scratch = Scratch()

    def num_inputs(self, numbers: NDArray[np.integer]) -> int:
        """Return how many inputs of the tower the images of some samples are."""
        return int(self._num_inputs[numbers].sum())

    def num_bytes(self, numbers: NDArray[np.integer]) -> int:
        """Return how many bytes some samples have in their shards."""
        return self._fetcher.num_bytes(numbers)

    def load_row(
        self,
        numbers: NDArray[np.integer],
        buffer: RowBuffer,
        *,
        pending: Mapping[int, PendingRange],
    ) -> LoadedRow:
        """Read the samples of a row, decode their images and fill the row's buffer.

        Args:
            pending: ranges that have the bytes of samples, or will; others are read now.
        """
        offsets = offsets_from_counts(self._num_inputs[numbers]).tolist()
        encoded = [self.read(number, pending=pending.get(number)) for number in numbers.tolist()]
        with self._metrics.measure_time("decode_s"):
            samples = [
                self.decode(sample, number=number, pixels=buffer.pixels[start:end])
                for sample, number, (start, end) in zip(
                    encoded, numbers.tolist(), itertools.pairwise(offsets), strict=True
                )
            ]
        self.fill_row(samples, buffer, numbers=numbers)
        return LoadedRow.from_samples(samples)

    def read(self, number: int, *, pending: PendingRange | None = None) -> LoadedSample:
        """Return one sample with its images still encoded, or a blank if it cannot be had.

        Reads again if the bytes are wrong.

        Args:
            pending: a range that has the sample's bytes, or will; without, they are read now.
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
        """Fill a row's ids, labels, positions and segments with samples that have these numbers."""
        fill_row(
            samples,
            buffer,
            lengths=self._index.text_tokens[numbers] + self._image_tokens[numbers],
            positions=self._positions(numbers),
            image_id=self._image_id,
            pad_id=self._pad_id,
        )

    def decode(self, sample: LoadedSample, *, number: int, pixels: Pixels) -> LoadedSample:
        """Decode the images of a sample and return it; read it again if they cannot be decoded.

        After the last attempt, returns a blank.

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
                    sample = self._blank(number, fault=self._fetcher.decode_error(number, str(err)))
                else:
                    self._metrics.count("retries")
                    sample = self.read(number)
            else:
                return sample
        pixels.fill(0)
        return sample

    def _read_once(self, number: int, *, pending: PendingRange | None) -> LoadedSample:
        fetched = self._fetcher.fetch(number, pending=pending)
        try:
            self._check_counts(fetched, number=number)
            self._check_ids(fetched.ids)
        except ValueError as err:
            raise self._fetcher.decode_error(number, str(err)) from err
        return LoadedSample(
            key=self._index.keys[number],
            ids=fetched.ids,
            supervised=fetched.supervised,
            images=fetched.images,
        )

    def _decode(self, images: Sequence[memoryview], pixels: Pixels, *, number: int) -> None:
        """Fill uint8[inputs, crop, crop, 3] with the images of a sample, one after the other."""
        if self._grid.tiling is None:
            for data, image in zip(images, pixels, strict=True):
                decode_into(image, data, shorter_side=self._image_size, scratch=self._scratch)
            return
        sizes = self._image_sizes(number)
        offsets = offsets_from_counts(self._grid.num_inputs(sizes))
        for data, size, tiles in zip(
            images, sizes.tolist(), np.split(pixels, offsets[1:-1]), strict=True
        ):
            decode_tiles_into(tiles, data, size=(size[0], size[1]), tiling=self._grid.tiling)

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
        """Raise ValueError unless a sample has the counts that its plan relies on."""
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

    def _check_ids(self, ids: NDArray[np.int32]) -> None:
        """Raise ValueError unless all ids are of the vocabulary that the manifest states."""
        if len(ids) and not (ids.min() >= 0 and ids.max() < self._num_ids):
            raise ValueError(
                f"ids are {ids.min()} to {ids.max()}, manifest.json says 0 to {self._num_ids - 1}"
            )

    def _positions(self, numbers: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return int64[images], the positions of each image of some samples, in their order."""
        num_images = int(self._index.num_images[numbers].sum())
        if self._grid.tiling is None or num_images == 0:  # no need to look up the sizes
            return np.full(num_images, self._grid.positions_per_input, np.int64)
        sizes = [self._image_sizes(number) for number in numbers.tolist()]
        return self._grid.num_positions(np.concatenate(sizes))

    def _image_sizes(self, number: int) -> NDArray[np.integer]:
        """Return int[images, 2], the stored width and height of each image of a sample."""
        first, end = self._image_offsets[number : number + 2]
        return self._index.image_sizes[first:end]
