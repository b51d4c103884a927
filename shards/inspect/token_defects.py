"""Whether the ids of a sample are those of its text: each text is encoded again.

Where they differ, the supervised ids are decoded and compared with the answers, which says more.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vchat.shards.format.sample import Sample
from vchat.shards.inspect.defects import Defect, compare
from vchat.shards.text.template import Template, TextRound
from vchat.shards.text.tokenizer import TextTokenizer, TokenizedText

SHOWN_IDS = 6


class TokenChecker:
    """Compares samples with what their template and tokenizer make of their rounds."""

    def __init__(self, template: Template, tokenizer: TextTokenizer):
        """Take those of the shard set."""
        self._template, self._tokenizer = template, tokenizer
        self._end_id = tokenizer.special_id(template.end)

    def defects(self, sample: Sample, location: dict[str, str]) -> Iterator[Defect]:
        """Yield what is wrong with ids and mask: slots, range, answers, then any other id."""
        slots = int((sample.ids == self._tokenizer.image_id).sum())
        found = list(compare(slots, len(sample.images), **location, what="number of <image> ids"))
        last_id = self._tokenizer.num_ids - 1
        if len(sample.ids) and not (sample.ids.min() >= 0 and sample.ids.max() <= last_id):
            ids = f"{sample.ids.min()} to {sample.ids.max()}"
            yield Defect(**location, what="ids", found=ids, wanted=f"0 to {last_id}")
            return
        yield from found
        try:
            wanted = encode_again(sample, self._template, self._tokenizer)
        except ValueError as error:
            what = "text"
            yield Defect(**location, what=what, found=str(error), wanted="one that is encoded")
            return
        if _are_equal(sample, wanted):
            return
        found += (answers := list(self._answer_defects(sample, location)))
        yield from answers or ([] if found else [_first_difference(sample, wanted, location)])

    def _answer_defects(self, sample: Sample, location: dict[str, str]) -> Iterator[Defect]:
        """Compare the texts of the supervised ids with the answers."""
        with_loss = [(i, stored) for i, stored in enumerate(sample.rounds) if stored.supervised]
        answers = self._supervised_texts(sample)
        yield from compare(len(answers), len(with_loss), **location, what="supervised answers")
        end = self._tokenizer.decode([self._end_id])
        for text, (number, one) in zip(answers, with_loss, strict=False):
            if text not in (one.answer + end, self._tokenizer.round_trip(one.answer) + end):
                what = f"supervised text of round {number}"
                yield from compare(text, one.answer + end, **location, what=what)

    def _supervised_texts(self, sample: Sample) -> list[str]:
        """Return the texts of supervised ids, cut after end tokens and at interruptions."""
        texts: list[str] = []
        ids: list[int] = []
        for token, supervised in zip(sample.ids.tolist(), sample.supervised.tolist(), strict=True):
            if supervised:
                ids.append(token)
            if ids and (not supervised or token == self._end_id):
                texts.append(self._tokenizer.decode(ids))
                ids = []
        return [*texts, self._tokenizer.decode(ids)] if ids else texts


def encode_again(sample: Sample, template: Template, tokenizer: TextTokenizer) -> TokenizedText:
    """Return the ids and the mask that a build would make of a sample's rounds.

    Raises:
        ValueError: A text is not Unicode, or the template does not write it as it is.
    """
    rounds = [
        TextRound(
            num_images=len(one.images),
            question=one.question,
            answer=one.answer,
            places=one.places,
            supervised=one.supervised,
        )
        for one in sample.rounds
    ]
    own = template if sample.system is None else template.with_system(sample.system)
    return tokenizer.encode(own.dialogue(rounds))


def _are_equal(sample: Sample, wanted: TokenizedText) -> bool:
    return np.array_equal(sample.ids, wanted.ids) and np.array_equal(
        sample.supervised, wanted.supervised
    )


def _first_difference(sample: Sample, wanted: TokenizedText, location: dict[str, str]) -> Defect:
    """Return the defect that shows where ids, or the mask, first differ from those of the text."""
    what, found, again = "ids", sample.ids.tolist(), wanted.ids.tolist()
    if found == again:
        what, found, again = "mask", sample.supervised.tolist(), wanted.supervised.tolist()
    pairs = enumerate(zip(found, again, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(found), len(again)))
    shown = [f"{one[at : at + SHOWN_IDS]} from number {at} of {len(one)}" for one in (found, again)]
    return Defect(
        **location,
        what=f"{what} of the text, encoded again",
        found=shown[0],
        wanted=shown[1],
    )
