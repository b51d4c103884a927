"""A data set of its own package: captions in a CSV file, one image each.

Input: `captions/captions.csv` with the columns `file` and `caption`, images in `captions/images/`.
Output: one record of one round per line. After `pip install` of this folder, `vchat-prep build
--datasets captions` finds it through the entry point in `pyproject.toml`.
"""

import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from vchat.prep import Converted, Entry, Need, Source, file_id, require_text
from vchat.shards import ImageRef, Record, Round

FILE = "captions/captions.csv"
IMAGES = "captions/images/"


def read_entries(data: Path) -> Iterator[Entry]:
    """Yield every line, in file order."""
    with (data / FILE).open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            yield Entry(id=line["file"], num_pairs=1, convert=partial(to_record, line))


def to_record(line: dict[str, str]) -> Converted:
    """Turn one line into a record; raises `Rejected`: `bad_id`, `bad_row`, `empty_text`."""
    name = file_id(line["file"], what="file")
    image = ImageRef(key=f"captions:{name}", file=IMAGES + name)
    answer = require_text(line["caption"], what="caption")
    return Converted(
        record=Record(
            key=f"captions/{name}",
            source="captions",
            rounds=(Round(images=(image,), question="Describe the image.", answer=answer),),
            licence=SOURCE.licence,
            file=FILE,
            record_id=name,
        )
    )


SOURCE = Source(
    name="captions",
    about="captions in a CSV file",
    needs=(
        Need(paths=(FILE,), how="write one: the columns are `file` and `caption`"),
        Need(paths=(IMAGES,), how="put the images there"),
    ),
    licence="your own",
    read_entries=read_entries,
)
