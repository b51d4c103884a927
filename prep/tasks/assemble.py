"""A planned dialogue -> the samples that are stored: images numbered, tokens made, length kept.

Input: the records of one dialogue with their encoded images. Output: one sample, or several where
the dialogue is longer than the limit: it is cut between rounds, and a part that starts within a
record shows again the images that the record has shown so far. An answer is never cut; a record
with a round that is too long even alone is rejected. Pure: equal records give equal samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import numpy as np

from vchat.prep.raw.rejected import Rejected
from vchat.shards.format.record import Record
from vchat.shards.format.sample import RecordOrigin, Sample, StoredImage, StoredRound
from vchat.shards.pixels.grid import ImageGrid
from vchat.shards.text.chat_template import TextChanged
from vchat.shards.text.template import Template, TextRound
from vchat.shards.text.tokenizer import TextTokenizer, TokenizedText

OnRejected = Callable[[Record, Rejected], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRecord:
    """A record and its images as they are stored, in order of mention."""

    record: Record
    images: tuple[StoredImage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRound:
    """One round of a record, and the images it cannot do without."""

    record: Record
    question: str
    answer: str
    new_images: tuple[StoredImage, ...]
    """Those first shown in this round."""

    needed_images: tuple[StoredImage, ...]
    """Those the record has shown up to and in this round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembler:
    """Makes samples of dialogues, with one tokenizer, template and length limit."""

    tokenizer: TextTokenizer
    template: Template
    max_tokens: int
    """The longest sample in positions of the decoder, image positions included."""

    positions_per_image: int

    def assemble(
        self, records: Sequence[PreparedRecord], *, split: str, on_rejected: OnRejected
    ) -> Iterator[Sample]:
        """Yield the samples of one dialogue, in order; none if every record is rejected.

        `on_rejected` is called for every record with a round that is too long, or that the
        template would change.
        """
        turns = [turn for prepared in records for turn in prepare_rounds(prepared)]
        if not turns:
            return
        try:
            encoded = self._encode(turns)
        except TextChanged:  # which record it was, the check of each finds out
            encoded = None
        if encoded is not None and self._count_sample_positions(encoded, turns) <= self.max_tokens:
            yield _make_sample(turns, encoded, split=split, key=turns[0].record.key)
            return
        yield from self._split_dialogue(turns, split=split, on_rejected=on_rejected)

    def _split_dialogue(
        self, turns: Sequence[PreparedRound], *, split: str, on_rejected: OnRejected
    ) -> Iterator[Sample]:
        fitting: list[PreparedRound] = []
        for _, group in groupby(turns, key=lambda turn: turn.record.key):
            of_record = list(group)
            try:
                self._check_rounds(of_record)
            except Rejected as rejected:
                on_rejected(of_record[0].record, rejected)
            else:
                fitting += of_record
        for number, part in enumerate(self._cut_parts(fitting)):
            key = fitting[0].record.key + (f"#{number}" if number else "")
            yield _make_sample(part, self._encode(part), split=split, key=key)

    def _check_rounds(self, turns: Sequence[PreparedRound]) -> None:
        """Raise `Rejected` unless every round of a record fits alone with the images it needs.

        And unless the template renders its texts as they are.
        """
        for number, turn in enumerate(turns, start=1):
            try:
                length = self._count_sample_positions(self._encode([turn]), [turn])
            except TextChanged as changed:
                raise Rejected("changed_text", f"round {number}: {changed}") from changed
            if length > self.max_tokens:
                problem = f"round {number} takes {length} positions, more than {self.max_tokens}"
                raise Rejected("too_long", problem)

    def _cut_parts(self, turns: Sequence[PreparedRound]) -> Iterator[list[PreparedRound]]:
        """Yield stretches of turns that fit, each as long as it can be."""
        part: list[PreparedRound] = []
        for turn in turns:
            longer = [*part, turn]
            if (
                part
                and self._count_sample_positions(self._encode(longer), longer) > self.max_tokens
            ):
                yield part
                longer = [turn]
            part = longer
        if part:
            yield part

    def _encode(self, turns: Sequence[PreparedRound]) -> TokenizedText:
        rounds = [
            TextRound(num_images=len(images), question=turn.question, answer=turn.answer)
            for turn, images in zip(turns, images_by_round(turns), strict=True)
        ]
        return self.tokenizer.encode(self.template.dialogue(rounds))

    def _count_sample_positions(
        self, encoded: TokenizedText, turns: Sequence[PreparedRound]
    ) -> int:
        """Return the positions of a sample: its text, and what its images widen to."""
        sizes = tuple(image.size for images in images_by_round(turns) for image in images)
        return len(encoded.ids) - len(sizes) + _count_positions(sizes, self.positions_per_image)


@lru_cache(maxsize=4096)
def _count_positions(sizes: tuple[tuple[int, int], ...], per_image: int) -> int:
    """Return the positions of images of these stored sizes; most have one of a few."""
    stored = np.array(sizes, dtype=np.int32).reshape(-1, 2)
    return int(ImageGrid(positions_per_input=per_image).num_positions(stored).sum())


def prepare_rounds(prepared: PreparedRecord) -> list[PreparedRound]:
    """Return the rounds of a record with the images each shows and needs."""
    turns, shown = [], 0
    for round_ in prepared.record.rounds:
        until = shown + len(round_.images)
        turns.append(
            PreparedRound(
                record=prepared.record,
                question=round_.question,
                answer=round_.answer,
                new_images=prepared.images[shown:until],
                needed_images=prepared.images[:until],
            )
        )
        shown = until
    return turns


def images_by_round(turns: Sequence[PreparedRound]) -> list[tuple[StoredImage, ...]]:
    """Return the images shown in each round of one sample.

    The sample's first round of a record shows all that the record needs, also where the record
    began in an earlier sample.
    """
    return [
        turn.new_images if i and turns[i - 1].record.key == turn.record.key else turn.needed_images
        for i, turn in enumerate(turns)
    ]


def _make_sample(
    turns: Sequence[PreparedRound], encoded: TokenizedText, *, split: str, key: str
) -> Sample:
    images: list[StoredImage] = []
    rounds = []
    for turn, shown in zip(turns, images_by_round(turns), strict=True):
        numbers = tuple(range(len(images), len(images) + len(shown)))
        rounds.append(StoredRound(images=numbers, question=turn.question, answer=turn.answer))
        images += shown
    return Sample(
        key=key,
        source=turns[0].record.source,
        split=split,
        records=tuple(_record_origins(turns)),
        rounds=tuple(rounds),
        images=tuple(images),
        ids=encoded.ids,
        supervised=encoded.supervised,
    )


def _record_origins(turns: Sequence[PreparedRound]) -> Iterator[RecordOrigin]:
    first = 0
    for _, group in groupby(turns, key=lambda turn: turn.record.key):
        of_record = list(group)
        record = of_record[0].record
        yield RecordOrigin(
            key=record.key,
            file=record.file,
            record_id=record.record_id,
            licence=record.licence,
            first_round=first,
            num_rounds=len(of_record),
            marks=record.marks,
        )
        first += len(of_record)
