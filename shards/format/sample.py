"""A sample and its encoding as members of a tar file; FORMAT.md describes the bytes.

A sample is a dialogue that is ready for training: its rounds, its encoded images, its token ids
and the mask of supervised ids. Nothing is pickled; arrays are npy files without objects.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

IMAGE_EXTENSIONS = ("jpg", "png", "webp")


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
        ("mask.npy", _encode_npy(sample.supervised, "|b1")),
        ("tokens.npy", _encode_npy(sample.ids, "<i4")),
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
        described = json.loads(members["json"])
        sample = _build_sample(described, members)
    except KeyError as error:
        raise ValueError(f"{name}: missing {error}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error
    superfluous = sorted(members.keys() - member_names(sample))
    if superfluous:
        raise ValueError(f"{name}: superfluous members {superfluous}")
    return sample


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


def _build_sample(described: dict[str, Any], members: Mapping[str, bytes]) -> Sample:
    images = tuple(
        StoredImage(
            key=image["key"],
            data=members[image["file"]],
            extension=image["file"].rpartition(".")[2],
            size=_size(image["size"]),
            original_size=_size(image["original_size"]),
        )
        for image in described["images"]
    )
    return Sample(
        key=described["key"],
        source=described["source"],
        split=described["split"],
        records=tuple(
            RecordOrigin(**record | {"marks": tuple(record.get("marks", ()))})
            for record in described["records"]
        ),
        rounds=tuple(map(_build_round, described["rounds"])),
        images=images,
        system=described.get("system"),
        ids=_decode_npy(members["tokens.npy"], np.int32, member="tokens.npy"),
        supervised=_decode_npy(members["mask.npy"], np.bool_, member="mask.npy"),
    )


def _build_round(described: dict[str, Any]) -> StoredRound:
    return StoredRound(
        images=tuple(described["images"]),
        question=described["question"],
        answer=described["answer"],
        places=tuple(described.get("places", ())),
        supervised=described.get("loss", True),
    )


def _size(pair: list[int]) -> tuple[int, int]:
    width, height = pair
    return width, height


def _encode_npy(array: NDArray[Any], dtype: str) -> bytes:
    """Return an array as an npy file of format version 1.0, little-endian."""
    return _npy_header(dtype, array.shape) + np.ascontiguousarray(array, dtype=dtype).tobytes()


@lru_cache(maxsize=8192)
def _npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Return the header of an npy file; cached, because samples have few different lengths."""
    file = io.BytesIO()
    described = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)
    return file.getvalue()


def _decode_npy(data: bytes, dtype: type[np.generic], *, member: str) -> NDArray[Any]:
    """Read an npy file; raise ValueError if it has objects or another type."""
    array: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    if array.dtype != dtype:
        raise ValueError(f"{member} holds {array.dtype}; wanted {np.dtype(dtype)}")
    return array
