"""A sample and its encoding as members of a tar file; FORMAT.md describes the bytes.

A sample is a dialogue that is ready for training: its rounds, its encoded images, its token ids
and the mask of supervised ids. Nothing is pickled; arrays are npy files without objects.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vchat.base.checked_json import CheckedJson, parse_json
from vchat.shards.format.npy import MASK_KIND, TOKENS_KIND, encode_npy, parse_npy

IMAGE_EXTENSIONS = ("jpg", "png", "webp")
MAX_JSON_BYTES = 8 * 2**20
"""Of the member that describes a sample."""

MAX_NUMBER = 2**31 - 1
"""Of an image, a character, or a side in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """An encoded image."""

    key: str
    """Canonical: equal keys mean the same photograph."""

    data: bytes
    extension: str
    """One of `IMAGE_EXTENSIONS`."""

    size: tuple[int, int]
    """Width and height of `data`, in pixels."""

    original_size: tuple[int, int]
    """Width and height of the source image, upright, in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRound:
    """A question and its answer, exactly as they were tokenized."""

    images: tuple[int, ...]
    """Indices into `Sample.images` of the images first shown here."""

    question: str
    answer: str
    places: tuple[int, ...] = ()
    """As in `Round`."""

    supervised: bool = True
    """Whether the answer carries loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordOrigin:
    """The record that some of a sample's rounds come from."""

    key: str
    file: str
    """Its annotation file, relative to the data folder."""

    record_id: str
    licence: str
    first_round: int
    """Index of the record's first round in the sample."""

    num_rounds: int
    marks: tuple[str, ...] = ()
    """As in `Record`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A dialogue as it is stored.

    Raises:
        ValueError: The rounds do not show every image once and in order, or have no right place
            for one, or ids and mask differ in length; names the sample.
    """

    key: str
    source: str
    split: str
    records: tuple[RecordOrigin, ...]
    rounds: tuple[StoredRound, ...]
    images: tuple[StoredImage, ...]
    ids: NDArray[np.int32]
    """int32[T], one `<image>` id per image."""

    supervised: NDArray[np.bool_]
    """bool[T]."""

    system: str | None = None
    """The dialogue's own system text; None if it is the template's."""

    def __post_init__(self) -> None:
        shown = [image for stored in self.rounds for image in stored.images]
        if shown != list(range(len(self.images))):
            raise ValueError(
                f"sample {self.key}: rounds show images {shown}; "
                f"wanted each of the {len(self.images)} once, in order"
            )
        for number, stored in enumerate(self.rounds):
            if not _are_places(stored):
                raise ValueError(
                    f"sample {self.key}: round {number} has places {list(stored.places)}; wanted"
                    f" one for each of {len(stored.images)} images, ascending, from -1 to"
                    f" {len(stored.question)}"
                )
        if self.ids.shape != self.supervised.shape or self.ids.ndim != 1:
            raise ValueError(
                f"sample {self.key}: ids of shape {self.ids.shape} "
                f"with a mask of shape {self.supervised.shape}; wanted equal lengths"
            )


def _are_places(stored: StoredRound) -> bool:
    """Return whether a round's places are empty, or one per image in order of the question."""
    places = stored.places
    return not places or (
        len(places) == len(stored.images)
        and list(places) == sorted(places)
        and places[0] >= -1
        and places[-1] <= len(stored.question)
    )


def encode_sample(sample: Sample) -> list[tuple[str, bytes]]:
    """Return `(name, bytes)` of every member, sorted by name; equal samples give equal bytes."""
    found = [
        ("json", _encode_json(sample)),
        ("mask.npy", encode_npy(sample.supervised, MASK_KIND)),
        ("tokens.npy", encode_npy(sample.ids, TOKENS_KIND)),
    ]
    found += [(image_member_name(sample, i), image.data) for i, image in enumerate(sample.images)]
    return sorted(found)


def member_names(sample: Sample) -> set[str]:
    """Return the names of the members that `encode_sample` gives."""
    images = {image_member_name(sample, i) for i in range(len(sample.images))}
    return images | {"json", "mask.npy", "tokens.npy"}


def image_member_name(sample: Sample, index: int) -> str:
    """Return the member name of an image: `0.jpg` for the first."""
    extension = sample.images[index].extension
    if extension not in IMAGE_EXTENSIONS:
        raise ValueError(
            f"sample {sample.key}: image {index} has extension {extension!r}; "
            f"wanted one of {', '.join(IMAGE_EXTENSIONS)}"
        )
    return f"{index}.{extension}"


def _origin_to_json(record: RecordOrigin) -> dict[str, Any]:
    """Return a record's origin as JSON, without `marks` if there are none."""
    described = {name: getattr(record, name) for name in RecordOrigin.__slots__}
    marks = described.pop("marks")
    return described | ({"marks": list(marks)} if marks else {})


def _round_to_json(stored: StoredRound) -> dict[str, Any]:
    """Return a round as JSON; `places` and `loss` stand only where they say something."""
    described = {"images": stored.images, "question": stored.question, "answer": stored.answer}
    places = {"places": list(stored.places)} if stored.places else {}
    return described | places | ({} if stored.supervised else {"loss": False})


def decode_sample(members: Mapping[str, bytes], *, name: str) -> Sample:
    """Rebuild a sample from its members.

    Args:
        members: Bytes by member name, as `encode_sample` gives them.
        name: Name of the sample in errors: shard and stem.

    Raises:
        ValueError: A member is missing, superfluous or malformed.
    """
    try:
        if len(members["json"]) > MAX_JSON_BYTES:
            found = len(members["json"])
            raise ValueError(f"json has {found} bytes, wanted at most {MAX_JSON_BYTES}")
        described = CheckedJson(parse_json(bytes(members["json"]), name="json"), name="json")
        sample = _build_sample(described, members)
    except KeyError as error:
        raise ValueError(f"{name}: missing {error}") from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    superfluous = sorted(members.keys() - member_names(sample))
    if superfluous:
        raise ValueError(f"{name}: superfluous members {superfluous}")
    return sample


def check_ids(sample: Sample, *, image_id: int, num_ids: int, name: str) -> None:
    """Raise ValueError unless ids are of the vocabulary, and each image has its slot.

    Args:
        sample: As it was read.
        image_id: The id of a slot.
        num_ids: The highest id + 1.
        name: Of the sample in errors.
    """
    ids = sample.ids
    if len(ids) and not (ids.min() >= 0 and ids.max() < num_ids):
        raise ValueError(f"{name}: ids are {ids.min()} to {ids.max()}, wanted 0 to {num_ids - 1}")
    slots = int(np.count_nonzero(ids == image_id))
    if slots != len(sample.images):
        raise ValueError(f"{name}: {slots} image slots for {len(sample.images)} images")


def _encode_json(sample: Sample) -> bytes:
    """Return the `.json` member: all of the sample except its arrays and pixels."""
    images = [
        {
            "key": image.key,
            "file": image_member_name(sample, i),
            "size": image.size,
            "original_size": image.original_size,
        }
        for i, image in enumerate(sample.images)
    ]
    described = {
        "key": sample.key,
        "source": sample.source,
        "split": sample.split,
        **({} if sample.system is None else {"system": sample.system}),
        "records": [_origin_to_json(record) for record in sample.records],
        "rounds": [_round_to_json(stored) for stored in sample.rounds],
        "images": images,
    }
    try:
        return json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"sample {sample.key}: a text is not valid Unicode: {error}") from error


def _build_sample(described: CheckedJson, members: Mapping[str, bytes]) -> Sample:
    described.only({"key", "source", "split", "system", "records", "rounds", "images"})
    system = described.get("system")
    images = described.member("images").elements()
    rounds = tuple(_build_round(one) for one in described.member("rounds").elements())
    return Sample(
        key=described.member("key").text(),
        source=described.member("source").text(),
        split=described.member("split").text(),
        records=_build_records(described.member("records"), num_rounds=len(rounds)),
        rounds=rounds,
        images=tuple(_build_image(one, number, members) for number, one in enumerate(images)),
        system=None if system is None else system.text(),
        ids=_decode_npy(members["tokens.npy"], TOKENS_KIND, member="tokens.npy"),
        supervised=_decode_npy(members["mask.npy"], MASK_KIND, member="mask.npy"),
    )


def _build_image(image: CheckedJson, number: int, members: Mapping[str, bytes]) -> StoredImage:
    image.only({"key", "file", "size", "original_size"})
    names = {f"{number}.{extension}": extension for extension in IMAGE_EXTENSIONS}
    file = image.member("file")
    if file.text() not in names:
        file.fail(" or ".join(names))
    return StoredImage(
        key=image.member("key").text(),
        data=members[file.text()],
        extension=names[file.text()],
        size=_size(image.member("size")),
        original_size=_size(image.member("original_size")),
    )


def _build_round(described: CheckedJson) -> StoredRound:
    described.only({"images", "question", "answer", "places", "loss"})
    places, loss = described.get("places"), described.get("loss")
    return StoredRound(
        images=tuple(one.integer(0, MAX_NUMBER) for one in described.member("images").elements()),
        question=described.member("question").text(),
        answer=described.member("answer").text(),
        places=tuple(one.integer(-1, MAX_NUMBER) for one in places.elements()) if places else (),
        supervised=True if loss is None else loss.boolean(),
    )


def _build_records(listed: CheckedJson, *, num_rounds: int) -> tuple[RecordOrigin, ...]:
    """Return the records of a sample, which divide its rounds among them."""
    records, start = [], 0
    for one in listed.elements():
        one.only(set(RecordOrigin.__slots__))
        marks = one.get("marks")
        one.member("first_round").integer(start, start)
        record = RecordOrigin(
            **{name: one.member(name).text() for name in ("key", "file", "record_id", "licence")},
            first_round=start,
            num_rounds=one.member("num_rounds").integer(1, num_rounds - start),
            marks=tuple(mark.text() for mark in marks.elements()) if marks else (),
        )
        records.append(record)
        start += record.num_rounds
    if start != num_rounds:
        listed.fail(f"records of all {num_rounds} rounds")
    return tuple(records)


def _size(pair: CheckedJson) -> tuple[int, int]:
    sides = pair.elements()
    if len(sides) != 2:
        pair.fail("[width, height]")
    width, height = (side.integer(1, MAX_NUMBER) for side in sides)
    return width, height


def _decode_npy(data: bytes, kind: str, *, member: str) -> NDArray[Any]:
    """Return the array of a member, which may be written to."""
    try:
        return parse_npy(data, kind).copy()
    except ValueError as error:
        raise ValueError(f"{member}: {error}") from error
