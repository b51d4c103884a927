"""COCO captions in the Karpathy split: each caption of a training photograph is one record.

Input: `coco_caption/dataset.json`, images in the flat folder `coco/2014/` or in `coco/train2014/`
and `coco/val2014/`; a photograph that is in neither is looked up under its 2017 name. Output: one
record per caption. The splits `val` and `test` are evaluation data and are rejected, unless a
recipe asks for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from vchat.prep.raw.archives import archive_of, member_name
from vchat.prep.raw.data_path import DataPath
from vchat.prep.raw.json_stream import items
from vchat.prep.raw.rejected import Rejected
from vchat.prep.sources import coco
from vchat.prep.sources.prompts import BRIEF, prompt_for
from vchat.prep.sources.source import Converted, Entry, KnownCount, Need, Source
from vchat.prep.sources.texts import as_sentence, require_object, require_text
from vchat.shards.format.record import ImageRef, Record, Round

FILES = ("coco_caption/dataset.json", "coco_caption/dataset_coco.json")
"""Two names of the same content; the first that exists is read."""

TRAIN = ("train", "restval")
SPLITS = (*TRAIN, "val", "test")
LICENCE = f"CC BY 4.0 (annotations); {coco.LICENCE}"


def read_entries(data: DataPath, *, splits: tuple[str, ...] = TRAIN) -> Iterator[Entry]:
    """Yield every caption, in file order; a photograph without captions is one entry too."""
    file = next((name for name in FILES if (data / name).is_file()), FILES[0])
    for number, photo in enumerate(items(data / file, "images.item")):
        captions = _captions(photo)
        for i, caption in enumerate(captions or [None]):
            entry_id = _caption_id(caption, f"{number}.{i}")
            convert = partial(
                to_record, photo, caption, entry_id, splits=splits, data=data, file=file
            )
            yield Entry(id=entry_id, num_pairs=len(captions[i : i + 1]), convert=convert)


def to_record(
    photo: Any, caption: Any, entry_id: str, *, splits: tuple[str, ...], data: DataPath, file: str
) -> Converted:
    """Turn one caption into a record.

    Raises:
        Rejected: `bad_row`, `wrong_split`, `bad_id`, `missing_image`, `bad_text`, `empty_text`.
    """
    photo = require_object(photo)
    if photo.get("split") not in splits:
        wanted = " or ".join(splits)
        raise Rejected("wrong_split", f"split is {photo.get('split')!r}, not {wanted}")
    raw = caption.get("raw") if isinstance(caption, Mapping) else caption
    text = require_text("" if raw is None else raw, what="caption")
    key = f"coco_caption/{entry_id}"
    record = Record(
        key=key,
        source="coco_caption",
        rounds=(
            Round(
                images=(_image(photo, data=data),),
                question=prompt_for(key, BRIEF),
                answer=as_sentence(text.capitalize() if text.isupper() else text),
            ),
        ),
        licence=LICENCE,
        file=file,
        record_id=entry_id,
    )
    return Converted(record=record)


def _captions(photo: Any) -> list[Any]:
    """Return the captions: a list, or the values of an object in older copies."""
    sentences = photo.get("sentences") if isinstance(photo, Mapping) else None
    if isinstance(sentences, Mapping):
        return [sentences] if "raw" in sentences else list(sentences.values())
    return sentences if isinstance(sentences, list) else []


def _caption_id(caption: Any, otherwise: str) -> str:
    return str(caption.get("sentid", otherwise)) if isinstance(caption, Mapping) else otherwise


def _image(photo: Mapping[str, Any], *, data: DataPath) -> ImageRef:
    """Return a reference to the photograph, in the layout that exists."""
    number = coco.number_of_file(photo.get("filename"))
    release = "val2014" if "val2014" in str(photo["filename"]).lower() else "train2014"
    name = f"COCO_{release}_{number:012d}.jpg"
    files = (f"coco/2014/{name}", f"coco/{release}/{name}", f"coco/train2017/{number:012d}.jpg")
    for file in files:
        if _exists(data / file):
            return ImageRef(key=coco.key(number), file=file)
    raise Rejected("missing_image", f"none of {', '.join(files)} is there")


def _exists(path: DataPath) -> bool:
    archive = archive_of(path.parent)
    return path.is_file() or (archive is not None and member_name(archive, path.name) is not None)


def of_splits(splits: tuple[str, ...]) -> Source:
    """Return the source that uses the photographs of some of `SPLITS`."""
    return replace(SOURCE, read_entries=partial(read_entries, splits=splits), splits=splits)


SOURCE = Source(
    name="coco_caption",
    about="five or more captions of each COCO photograph, Karpathy split (567 k captions)",
    needs=(
        Need(
            paths=FILES,
            how="download coco.zip from https://cs.stanford.edu/people/karpathy/deepimagesent/"
            " and put its dataset.json (elsewhere dataset_coco.json) in coco_caption/ of the data"
            " folder",
        ),
        Need(
            paths=("coco/2014/", "coco/train2014/", "coco/train2017/"),
            how="download train2014.zip and val2014.zip from http://images.cocodataset.org/zips/"
            " and unpack both in coco/2014/ (one flat folder), or in coco/",
        ),
    ),
    licence=LICENCE,
    read_entries=read_entries,
    splits=TRAIN,
    all_splits=SPLITS,
    of_splits=of_splits,
    known_count=KnownCount(number=616_767, of="pairs"),
)
