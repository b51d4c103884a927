"""What a training example is: rounds of question and answer about images.

A *record* is one example as a source has it; a *dialogue* is one or more records of one source
(or of a blend) joined, and becomes one *sample* of a shard. Both are plain values; nothing here
reads a file. Images are numbered through the whole dialogue in order of first mention.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRef:
    """Where the bytes of one image lie, and which photograph it is."""

    key: str
    """Canonical: equal keys mean the same photograph, whatever file name it goes by (`coco:42`)."""

    file: str
    """Relative to the data folder, with forward slashes: an image file, or the container of one."""

    member: str = ""
    """Name of the entry in a `.zip` or `.tar`, or `row/column` of a Parquet cell."""

    offset: int = -1
    """First byte of a base64 value inside a JSON file; -1 if the image is not stored that way."""

    size_bytes: int = -1
    """Length of that base64 value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One question, the images first shown with it, and its answer; texts have no outer blanks."""

    images: tuple[ImageRef, ...]
    question: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One example as its source has it: the unit that is counted, used once, or rejected."""

    key: str
    """Unique in a build: `source/id`."""

    source: str
    rounds: tuple[Round, ...]
    licence: str
    file: str
    """The annotation file it came from, relative to the data folder."""

    record_id: str
    """Its id inside that file, as text."""

    marks: tuple[str, ...] = ()
    """What was done to it on its way, for whoever filters samples: `resampled_224` (its pictures
    were stretched to 224 x 224 upstream), `subsampled_from_16` (it had so many images)."""

    @property
    def images(self) -> tuple[ImageRef, ...]:
        """Images in order of mention, repeats included."""
        return tuple(image for round_ in self.rounds for image in round_.images)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue:
    """Records joined into one conversation, in order; it becomes one sample."""

    key: str
    """Key of its first record; a part split off an over-long dialogue adds `#1`, `#2` ..."""

    source: str
    records: tuple[Record, ...]
