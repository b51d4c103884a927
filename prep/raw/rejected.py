"""Why an entry, a question/answer pair or a record is not in the shards, and how many are not.

Every entry of a source becomes one record or is `Rejected` with a reason of a closed list; every
record is used exactly once or rejected later. `ConversionCounts` counts both sides, so that a build
can check this conservation law. In reports, entries are called rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from vchat.shards.pixels.limits import PictureError

REASONS: Mapping[str, str] = {
    "bad_id": "an id does not have the form that its data set uses",
    "bad_role_order": "turns do not alternate between user and assistant, starting with the user",
    "bad_row": "a field is missing or of the wrong kind",
    "bad_text": "a text is not valid Unicode",
    "capped": "left out by the limit on the source's records",
    "changed_text": "the tokenizer's chat template trims, drops or alters a text of it",
    "duplicate": "a record of the same id or content came before",
    "empty_text": "a question or an answer is empty",
    "held_out_image": "a training record shows a photograph that is held out for evaluation",
    "huge_image": "an image has more bytes or pixels than we decode, or than a shard may hold",
    "missing_image": "an image is not where the annotation says",
    "no_loss": "no answer of it carries loss",
    "placeholder_mismatch": "the places for images in the text do not match the images",
    "tiny_image": "a side of an image is shorter than 2 pixels",
    "too_long": "one round, with the images it needs, is longer than the token limit",
    "too_many_images": "more images than the limit for one dialogue",
    "unmatched": "an image has no conversation to be joined with",
    "undecodable_image": "an image's bytes are not a picture of a known format, or are damaged",
    "unsafe_path": "an image path is absolute or leaves its folder",
    "unsupported_field": "it says something that a build does not honour: tools, a weight between",
    "unsupported_media": "it shows a video, a sound or another medium that a build does not read",
    "wrong_split": "the record belongs to a split that is not used, as a rule one for evaluation",
}
"""Reason code -> what it means. There are no other codes."""

EXAMPLES_PER_REASON = 5


class Rejected(Exception):
    """Raised for an entry, pair or record that cannot be used; the caller counts it."""

    def __init__(self, reason: str, detail: str):
        """Take a code of `REASONS`, and a detail that names the value found."""
        assert reason in REASONS, f"unknown reason code {reason!r}"
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@contextmanager
def reject_bad_pictures() -> Iterator[None]:
    """Turn the `PictureError` of a block into `Rejected`."""
    try:
        yield
    except PictureError as err:
        raise Rejected(err.reason, str(err)) from err


@dataclass(kw_only=True)
class Rejections:
    """Counts of rejected entries, or of rejected records, by reason code."""

    counts: Counter[str] = field(default_factory=Counter)
    """Reason -> number of entries or records."""

    pairs: Counter[str] = field(default_factory=Counter)
    """Reason -> number of question/answer pairs in them."""

    examples: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> the first `EXAMPLES_PER_REASON`, as `id: detail`."""

    def add(self, rejected: Rejected, *, where: str, num_pairs: int) -> None:
        """Count one rejected entry or record, named `where`, of `num_pairs` pairs."""
        self.counts[rejected.reason] += 1
        self.pairs[rejected.reason] += num_pairs
        examples = self.examples.setdefault(rejected.reason, [])
        if len(examples) < EXAMPLES_PER_REASON:
            examples.append(f"{where}: {rejected.detail}")

    def as_json(self) -> dict[str, object]:
        """Return plain dictionaries, reasons in alphabetical order."""
        return {
            "counts": dict(sorted(self.counts.items())),
            "pairs": {reason: n for reason, n in sorted(self.pairs.items()) if n},
            "examples": dict(sorted(self.examples.items())),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Mapping[str, object]]) -> Rejections:
        """Return the counts that `as_json` wrote."""
        return cls(
            counts=Counter(value["counts"]),
            pairs=Counter(value["pairs"]),
            examples={reason: list(some) for reason, some in value["examples"].items()},  # type: ignore[call-overload]
        )

    def merge(self, other: Rejections) -> None:
        """Add the counts of `other`, and its examples up to `EXAMPLES_PER_REASON`."""
        self.counts.update(other.counts)
        self.pairs.update(other.pairs)
        for reason, some in other.examples.items():
            mine = self.examples.setdefault(reason, [])
            mine.extend(some[: EXAMPLES_PER_REASON - len(mine)])


@dataclass(kw_only=True)
class ConversionCounts:
    """What became of the entries of one source, counted during its conversion."""

    rows: int = 0
    pairs: int = 0
    """Question/answer pairs in all entries read."""

    records: int = 0
    record_pairs: int = 0
    """Question/answer pairs in the records."""

    rejected: Rejections = field(default_factory=Rejections)
    """Entries that gave no record, with their pairs."""

    rejected_pairs: Counter[str] = field(default_factory=Counter)
    """Reason -> pairs left out of entries that still gave a record."""

    pair_examples: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> the first few such entries."""

    repairs: Counter[str] = field(default_factory=Counter)
    """Rule -> number of image ids in records that matched only after this rule changed them."""

    marks: Counter[str] = field(default_factory=Counter)
    """Mark -> number of records that carry it."""

    identity: Counter[str] = field(default_factory=Counter)
    """Kind of key (`identity.KINDS`) -> number of images of records that it names."""

    compared: Counter[str] = field(default_factory=Counter)
    """The same, of those whose bytes were read, so that copies are recognised."""

    def leave_out(self, pairs: Mapping[str, int], *, where: str) -> None:
        """Count pairs, by reason, that are not in the record of the entry named `where`."""
        self.rejected_pairs.update(pairs)
        for reason, count in pairs.items():
            examples = self.pair_examples.setdefault(reason, [])
            if count and len(examples) < EXAMPLES_PER_REASON:
                examples.append(f"{where}: {count} of its pairs")

    def check(self, source: str) -> None:
        """Check the conservation law: every entry and every pair is used or rejected.

        Raises:
            ValueError: If one is not; names the source and both sides of the sum.
        """
        rows = self.records + self.rejected.counts.total()
        if rows != self.rows:
            raise ValueError(f"{source}: {self.rows} rows read, but {rows} accounted for")
        rejected = self.rejected.pairs.total() + self.rejected_pairs.total()
        if self.record_pairs + rejected != self.pairs:
            raise ValueError(
                f"{source}: {self.pairs} question/answer pairs read, but"
                f" {self.record_pairs + rejected} accounted for"
            )

    def as_json(self) -> dict[str, object]:
        """Return plain dictionaries for the report."""
        return {
            "rows": self.rows,
            "pairs": self.pairs,
            "records": self.records,
            "record_pairs": self.record_pairs,
            "rejected_rows": self.rejected.as_json(),
            "rejected_pairs": dict(sorted(self.rejected_pairs.items())),
            "pair_examples": {
                name: some for name, some in sorted(self.pair_examples.items()) if some
            },
            "repairs": dict(sorted(self.repairs.items())),
            "marks": dict(sorted(self.marks.items())),
            "identity": dict(sorted(self.identity.items())),
            "compared": dict(sorted(self.compared.items())),
        }
