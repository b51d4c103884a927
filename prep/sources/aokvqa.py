"""A-OKVQA: a question that needs knowledge of the world, its answer, and the reasons.

Input: `aokvqa/annotations/aokvqa_v1p0_train.json`, images in `coco/train2017/`. Output: one record
of one round per entry; the answer is the chosen option, followed by the rationales.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from vchat.prep.raw.data_path import DataPath
from vchat.prep.raw.json_stream import items
from vchat.prep.raw.rejected import Rejected
from vchat.prep.sources import coco
from vchat.prep.sources.prompts import REASONS, prompt_for
from vchat.prep.sources.source import Converted, Entry, KnownCount, Need, Source
from vchat.prep.sources.texts import as_sentence, clean_text, id_of, require_object, require_text
from vchat.shards.format.record import Record, Round

FILE = "aokvqa/annotations/aokvqa_v1p0_train.json"


def read_entries(data: DataPath) -> Iterator[Entry]:
    """Yield every question, in file order.

    Raises:
        ValueError: If this is the test file, which has no answers.
    """
    for number, entry in enumerate(items(data / FILE)):
        if isinstance(entry, Mapping) and entry.get("split") == "test":
            raise ValueError(
                f"{data / FILE} is the test file of A-OKVQA, which has no answers: put"
                " aokvqa_v1p0_train.json there"
            )
        entry_id = id_of(entry, "question_id", otherwise=number)
        yield Entry(id=entry_id, num_pairs=1, convert=partial(to_record, entry, entry_id))


def to_record(entry: Any, entry_id: str) -> Converted:
    """Turn one question into a record.

    Raises:
        Rejected: `bad_row`, `wrong_split`, `bad_id`, `bad_text`, `empty_text`.
    """
    entry = require_object(entry)
    if entry.get("split") != "train":
        raise Rejected("wrong_split", f"split is {entry.get('split')!r}, not 'train'")
    key = f"aokvqa/{entry_id}"
    question = require_text(entry.get("question"), what="question")
    image = coco.train_2017(coco.number_in(str(entry.get("image_id")), what="image_id"))
    record = Record(
        key=key,
        source="aokvqa",
        rounds=(
            Round(
                images=(image,),
                question=f"{question} {prompt_for(key, REASONS)}",
                answer=" ".join([_choice(entry), *_reasons(entry)]),
            ),
        ),
        licence=SOURCE.licence,
        file=FILE,
        record_id=entry_id,
    )
    return Converted(record=record)


def _choice(entry: Mapping[str, Any]) -> str:
    """Return the right option as a sentence."""
    choices, index = entry.get("choices"), entry.get("correct_choice_idx")
    if not isinstance(choices, list) or not isinstance(index, int):
        raise Rejected("bad_row", "`choices` is not a list, or `correct_choice_idx` no number")
    if not 0 <= index < len(choices):
        raise Rejected("bad_row", f"correct_choice_idx {index} of {len(choices)} choices")
    return as_sentence(require_text(choices[index], what="the right choice"))


def _reasons(entry: Mapping[str, Any]) -> list[str]:
    """Return the rationales as sentences, without repetitions."""
    rationales = entry.get("rationales")
    if not isinstance(rationales, list):
        raise Rejected("bad_row", "`rationales` is not a list")
    texts = [clean_text(one, what="a rationale") for one in rationales]
    return list(dict.fromkeys(as_sentence(text) for text in texts if text))


SOURCE = Source(
    name="aokvqa",
    about="a question, its answer and the reasons, about a COCO photograph (17 k)",
    needs=(
        Need(
            paths=(FILE,),
            how="download aokvqa_v1p0.tar.gz from https://allenai.org/project/a-okvqa/home and"
            " unpack it in aokvqa/annotations/ of the data folder",
        ),
        coco.TRAIN_2017,
    ),
    licence=f"Apache-2.0 (annotations); {coco.LICENCE}",
    read_entries=read_entries,
    known_count=KnownCount(number=17_056, of="rows", is_exact=False),
)
