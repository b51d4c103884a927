"""One sample by its number: fetch, decode, repeat its slots; or a blank of the planned size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from vchat.shards.collate import LoadedSample, with_slots_repeated
from vchat.shards.decode import decoded
from vchat.shards.fetch import Fetched, SampleFetcher
from vchat.shards.joined_sets import JoinedSets
from vchat.shards.positions import num_positions
from vchat.shards.store import ShardError


class SampleLoader:
    """Loads samples of one split by number. Safe to use from several threads."""

    def __init__(
        self,
        sets: JoinedSets,
        *,
        positions_per_image: int,
        image_size: int,
        crop: int,
    ):
        """Images are resized to a shorter side of `image_size`, then cropped to a square."""
        self._fetcher = SampleFetcher(sets)
        self._index, self._image_id = sets.index, sets.image_id
        self._pad_id = sets.pad_id
        self._image_ends = np.cumsum(sets.index.num_images, dtype=np.int64)
        self._positions_per_image = positions_per_image
        self._image_size, self._crop = image_size, crop

    def load(self, number: int) -> LoadedSample:
        """Return one sample, read again once if the first try fails.

        Raises:
            ShardError: unreadable, or not what the index says.
        """
        try:
            return self._load_once(number)
        except ShardError:
            return self._load_once(number)

    def blank(self, number: int) -> LoadedSample:
        """Return a sample of the planned length with the planned images, all black, no labels."""
        positions = self._image_positions(number)
        length = int(self._index.text_tokens[number]) + int(positions.sum())
        ids = np.full(length, self._pad_id, np.int32)
        ids[: int(positions.sum())] = self._image_id
        return LoadedSample(
            key=self._index.keys[number],
            ids=ids,
            supervised=np.zeros(length, np.bool_),
            pixels=np.zeros((len(positions), 3, self._crop, self._crop), np.uint8),
        )

    def _load_once(self, number: int) -> LoadedSample:
        fetched = self._fetcher.fetch(number)
        try:
            self._check_counts(fetched, number=number)
            ids, supervised = with_slots_repeated(
                fetched.ids,
                fetched.supervised,
                image_id=self._image_id,
                positions=self._image_positions(number),
            )
            pixels = self._decoded(fetched)
        except ValueError as err:
            raise self._fetcher.undecodable(number, err) from err
        return LoadedSample(
            key=self._index.keys[number], ids=ids, supervised=supervised, pixels=pixels
        )

    def _check_counts(self, fetched: Fetched, *, number: int) -> None:
        """Compare what was read with what the plan counted on."""
        found = (
            len(fetched.ids) - int((fetched.ids == self._image_id).sum()),
            int(fetched.supervised.sum()),
            len(fetched.images),
        )
        columns = (
            self._index.text_tokens,
            self._index.supervised_tokens,
            self._index.num_images,
        )
        wanted = tuple(int(column[number]) for column in columns)
        if found != wanted or len(fetched.supervised) != len(fetched.ids):
            raise ValueError(
                f"(text tokens, supervised tokens, images) are {found}, the index says {wanted}"
            )

    def _decoded(self, fetched: Fetched) -> NDArray[np.uint8]:
        """Return uint8[images, 3, crop, crop]."""
        pixels = np.empty((len(fetched.images), 3, self._crop, self._crop), np.uint8)
        for k, data in enumerate(fetched.images):
            pixels[k] = decoded(data, shorter_side=self._image_size, crop=self._crop)
        return pixels

    def _image_positions(self, number: int) -> NDArray[np.int64]:
        """Return int64[images], the positions of each image of a sample."""
        end = self._image_ends[number]
        sizes = self._index.image_sizes[end - self._index.num_images[number] : end]
        return num_positions(sizes, per_image=self._positions_per_image)
