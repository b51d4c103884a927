"""A training example before it is encoded: rounds of question and answer about images.

A *record* is one example as a source has it. A *dialogue* joins one or more records of one source
(or of a blend) and becomes one *sample* of a shard. Both are plain values; nothing here reads a
file. Images are numbered through the whole dialogue in order of first mention.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRef:
    """Where the bytes of an image lie, and which photograph it is."""

    key: str
    """Canonical: equal keys mean the same photograph, under whatever file name (`coco:42`)."""

    file: str
    """Path relative to the data folder, with forward slashes: of the image, or its container."""

    member: str = ""
    """Name inside a `.zip` or `.tar`, or `row/column` of a Parquet cell; empty for a plain file."""

    offset: int = -1
    """First byte of the image's base64 value inside a JSON file; -1 if it is not stored so."""

    size_bytes: int = -1
    """Length of that base64 value; -1 if there is none."""

    digest: str = ""
    """Of the picture's bytes as they came; empty where it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A question, the images first shown with it, and its answer.

    Texts have no outer blanks, except a question that ends in an image: it keeps those before it.
    """

    images: tuple[ImageRef, ...]
    question: str
    answer: str
    places: tuple[int, ...] = ()
    """Empty: all its images stand in front of the round. Else one per image, ascending: the number
    of characters of the question before its slot, or -1 in front of the round."""

    supervised: bool = True
    """Whether the answer carries loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One example as its source has it: the unit that is used exactly once or rejected."""

    key: str
    """Unique in a build: `source/id`."""

    source: str
    rounds: tuple[Round, ...]
    licence: str
    file: str
    """Its annotation file, relative to the data folder."""

    record_id: str
    """Its id inside that file, as text."""

    marks: tuple[str, ...] = ()
    """How it was altered, so that samples can be filtered by it: `resampled_224` (its pictures were
    stretched to 224 x 224 upstream), `subsampled_from_16` (it had so many images)."""

    system: str | None = None
    """Its own system text, which replaces the template's; None if it has none."""

    @property
    def images(self) -> tuple[ImageRef, ...]:
        """The images in order of mention, with repeats."""
        return tuple(image for round_ in self.rounds for image in round_.images)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue:
    """Records joined into one conversation, in order, which becomes one sample."""

    key: str
    """Key of its first record; parts of an over-long dialogue add `#1`, `#2` ..."""

    source: str
    records: tuple[Record, ...]
