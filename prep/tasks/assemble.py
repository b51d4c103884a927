"""Turn a planned dialogue into stored samples: number images, make tokens, limit the length.

Input: the records of one dialogue with their encoded images. Output: one sample, or several where
the dialogue is longer than the limit: it is cut between rounds, and a part that starts within a
record shows again the images that the record has shown so far. An answer is never cut; a record
with a round that is too long even alone is rejected. Pure: equal records give equal samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRecord:
    """A record and its images as they are stored."""

    record: Record
    images: tuple[StoredImage, ...] = ()
    """In order of mention; empty if the record is rejected."""

    rejected: Rejected | None = None
    """Why one of its images cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRound:
    """One round of a record, and the images it needs."""

    record: Record
    question: str
    answer: str
    new_images: tuple[StoredImage, ...]
    """Images that are first shown in this round."""

    needed_images: tuple[StoredImage, ...]
    """Images that the record has shown up to and in this round."""

    places: tuple[int, ...] = ()
    """Of the new images, as in `Round`."""

    supervised: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class AssembledDialogue:
    """The samples of one dialogue, and what became of each of its records."""

    samples: tuple[Sample, ...]
    """In order; several if the dialogue was too long, none if every record is rejected."""

    used: tuple[Record, ...]
    rejected: tuple[tuple[Record, Rejected], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembler:
    """Makes samples of dialogues, with one tokenizer, template and length limit."""

    tokenizer: TextTokenizer
    template: Template
    max_tokens: int
    """The longest sample in positions of the decoder, image positions included."""

    positions_per_image: int

    def assemble(self, records: Sequence[PreparedRecord], *, split: str) -> AssembledDialogue:
        """Return the samples of one dialogue; a record that cannot be used leaves it.

        Rejected are records with an image that cannot be used, with a round that is too long, or
        with a text that the template would change. All records have one system text.
        """
        rejected = [(one.record, one.rejected) for one in records if one.rejected is not None]
        rounds = [
            round_ for one in records if one.rejected is None for round_ in prepare_rounds(one)
        ]
        samples = self._whole_sample(rounds, split=split)
        if not samples:
            fitting, unfit = self._check_records(rounds)
            rejected += unfit
            samples = self._cut_samples(fitting, split=split)
        rejected_keys = {record.key for record, _ in rejected}
        return AssembledDialogue(
            samples=tuple(samples),
            used=tuple(one.record for one in records if one.record.key not in rejected_keys),
            rejected=tuple(rejected),
        )

    def _whole_sample(self, rounds: Sequence[PreparedRound], *, split: str) -> list[Sample]:
        """Return all rounds as one sample; nothing if they are too long or a text would change."""
        if not rounds:
            return []
        try:
            encoded = self._encode(rounds)
        except TextChanged:  # `_check_records` finds out which record it was
            return []
        if self._count_positions(encoded, rounds) > self.max_tokens:
            return []
        return [_make_sample(rounds, encoded, split=split, key=rounds[0].record.key)]

    def _template(self, record: Record) -> Template:
        """Return the template with the system text of a record.

        Raises:
            TextChanged: The template refuses or alters it.
        """
        if record.system is None:
            return self.template
        return _with_system(self.template, record.system)

    def _check_records(
        self, rounds: Sequence[PreparedRound]
    ) -> tuple[list[PreparedRound], list[tuple[Record, Rejected]]]:
        """Return the rounds of the records that can be used, and the records that cannot."""
        fitting: list[PreparedRound] = []
        unfit: list[tuple[Record, Rejected]] = []
        for _, group in groupby(rounds, key=lambda round_: round_.record.key):
            of_record = list(group)
            try:
                self._check_rounds(of_record)
            except Rejected as rejected:
                unfit.append((of_record[0].record, rejected))
            else:
                fitting += of_record
        return fitting, unfit

    def _check_rounds(self, rounds: Sequence[PreparedRound]) -> None:
        """Check that every round of a record fits alone with the images it needs.

        Raises:
            Rejected: `too_long`, or `changed_text` if the template does not render a text as it is.
        """
        for number, round_ in enumerate(rounds, start=1):
            try:
                length = self._count_positions(self._encode([round_]), [round_])
            except TextChanged as changed:
                raise Rejected("changed_text", f"round {number}: {changed}") from changed
            if length > self.max_tokens:
                problem = f"round {number} takes {length} positions, more than {self.max_tokens}"
                raise Rejected("too_long", problem)

    def _cut_samples(self, rounds: Sequence[PreparedRound], *, split: str) -> list[Sample]:
        """Return samples of consecutive rounds, each as long as the limit allows."""
        return [
            _make_sample(
                part,
                self._encode(part),
                split=split,
                key=rounds[0].record.key + (f"#{number}" if number else ""),
            )
            for number, part in enumerate(self._cut_parts(rounds))
        ]

    def _cut_parts(self, rounds: Sequence[PreparedRound]) -> Iterator[list[PreparedRound]]:
        """Yield segments of consecutive rounds that fit, each as long as it can be."""
        part: list[PreparedRound] = []
        for round_ in rounds:
            longer = [*part, round_]
            if part and self._count_positions(self._encode(longer), longer) > self.max_tokens:
                yield part
                longer = [round_]
            part = longer
        if part:
            yield part

    def _encode(self, rounds: Sequence[PreparedRound]) -> TokenizedText:
        texts = [
            TextRound(
                num_images=len(images),
                question=round_.question,
                answer=round_.answer,
                places=_places(round_, num_images=len(images)),
                supervised=round_.supervised,
            )
            for round_, images in zip(rounds, images_by_round(rounds), strict=True)
        ]
        return self.tokenizer.encode(self._template(rounds[0].record).dialogue(texts))

    def _count_positions(self, encoded: TokenizedText, rounds: Sequence[PreparedRound]) -> int:
        """Return the positions of a sample: its text, and those that its images take."""
        sizes = tuple(image.size for images in images_by_round(rounds) for image in images)
        return len(encoded.ids) - len(sizes) + _count_positions(sizes, self.positions_per_image)


@lru_cache(maxsize=256)
def _with_system(template: Template, text: str) -> Template:
    """Return the template with another system text; cached, because many records share theirs.

    Raises:
        TextChanged: The template refuses or alters the text.
    """
    try:
        return template.with_system(text)
    except ValueError as error:
        raise TextChanged(str(error)) from error


@lru_cache(maxsize=4096)
def _count_positions(sizes: tuple[tuple[int, int], ...], per_image: int) -> int:
    """Return the positions of images of these stored sizes; most have one of a few."""
    stored = np.array(sizes, dtype=np.int32).reshape(-1, 2)
    return int(ImageGrid(positions_per_input=per_image).num_positions(stored).sum())


def prepare_rounds(prepared: PreparedRecord) -> list[PreparedRound]:
    """Return the rounds of a record with the images each shows and needs."""
    rounds, num_shown = [], 0
    for round_ in prepared.record.rounds:
        end = num_shown + len(round_.images)
        rounds.append(
            PreparedRound(
                record=prepared.record,
                question=round_.question,
                answer=round_.answer,
                new_images=prepared.images[num_shown:end],
                needed_images=prepared.images[:end],
                places=round_.places,
                supervised=round_.supervised,
            )
        )
        num_shown = end
    return rounds


def images_by_round(rounds: Sequence[PreparedRound]) -> list[tuple[StoredImage, ...]]:
    """Return the images that each round of one sample shows.

    The sample's first round of a record shows all images that the record needs, also where the
    record began in an earlier sample.
    """
    return [
        one.new_images if i and rounds[i - 1].record.key == one.record.key else one.needed_images
        for i, one in enumerate(rounds)
    ]


def _places(round_: PreparedRound, *, num_images: int) -> tuple[int, ...]:
    """Return the places of the images that a round shows in its sample.

    Images of earlier rounds that it shows again stand in front.
    """
    if not round_.places:
        return ()
    return (-1,) * (num_images - len(round_.new_images)) + round_.places


def _make_sample(
    rounds: Sequence[PreparedRound], encoded: TokenizedText, *, split: str, key: str
) -> Sample:
    images: list[StoredImage] = []
    stored = []
    for round_, new_images in zip(rounds, images_by_round(rounds), strict=True):
        numbers = tuple(range(len(images), len(images) + len(new_images)))
        stored.append(
            StoredRound(
                images=numbers,
                question=round_.question,
                answer=round_.answer,
                places=_places(round_, num_images=len(numbers)),
                supervised=round_.supervised,
            )
        )
        images += new_images
    return Sample(
        key=key,
        source=rounds[0].record.source,
        split=split,
        records=tuple(_record_origins(rounds)),
        rounds=tuple(stored),
        images=tuple(images),
        system=rounds[0].record.system,
        ids=encoded.ids,
        supervised=encoded.supervised,
    )


def _record_origins(rounds: Sequence[PreparedRound]) -> Iterator[RecordOrigin]:
    first = 0
    for _, group in groupby(rounds, key=lambda round_: round_.record.key):
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
