"""What became of the records that a plan was given: counted by source, and checked.

The second half of the conservation law: records = used exactly once + rejected, and the
question/answer pairs in them likewise. (The first half, rows of a source = records + rejected rows,
is checked as each source is converted, by `rejected.ConversionCounts`.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow.compute as pc

from vchat.prep.raw.rejected import Rejected, Rejections
from vchat.prep.tasks.assemble import AssembledDialogue
from vchat.shards.format.publish import FinishedShard
from vchat.shards.format.record import Record


@dataclass(kw_only=True)
class RecordCounts:
    """What became of records: of one shard's, or of all shards'. Keys are sources."""

    used_records: dict[str, int] = field(default_factory=dict)
    used_pairs: dict[str, int] = field(default_factory=dict)
    split_dialogues: int = 0
    """Dialogues that were too long and became several samples."""

    rejected: dict[str, Rejections] = field(default_factory=dict)

    def add_dialogue(self, dialogue: AssembledDialogue) -> None:
        """Count the records of one dialogue."""
        for record, why in dialogue.rejected:
            self._add_rejected(record, why)
        for record in dialogue.used:
            name = record.source
            self.used_records[name] = self.used_records.get(name, 0) + 1
            self.used_pairs[name] = self.used_pairs.get(name, 0) + len(record.rounds)
        self.split_dialogues += len(dialogue.samples) > 1

    def _add_rejected(self, record: Record, why: Rejected) -> None:
        reasons = self.rejected.setdefault(record.source, Rejections())
        reasons.add(why, where=record.key, num_pairs=len(record.rounds))

    def merge(self, other: RecordCounts) -> None:
        """Add the counts of `other`, and its examples as far as there is space."""
        for name, count in other.used_records.items():
            self.used_records[name] = self.used_records.get(name, 0) + count
        for name, count in other.used_pairs.items():
            self.used_pairs[name] = self.used_pairs.get(name, 0) + count
        for name, reasons in other.rejected.items():
            self.rejected.setdefault(name, Rejections()).merge(reasons)
        self.split_dialogues += other.split_dialogues

    def as_json(self) -> dict[str, Any]:
        """Return plain dictionaries."""
        return {
            "used_records": self.used_records,
            "used_pairs": self.used_pairs,
            "split_dialogues": self.split_dialogues,
            "rejected": {name: reasons.as_json() for name, reasons in self.rejected.items()},
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> RecordCounts:
        """Read what `as_json` wrote."""
        rejected = {name: Rejections.from_json(one) for name, one in found["rejected"].items()}
        return cls(**dict(found) | {"rejected": rejected})


def check_conservation(
    counts: RecordCounts,
    *,
    records: Mapping[str, int],
    pairs: Mapping[str, int],
    shards: Sequence[FinishedShard],
) -> None:
    """Check that every record and every pair is used or rejected, and that used pairs are stored.

    Args:
        counts: Of all shards, and of the records that the plan left out.
        records: Source -> records that were there to be used.
        pairs: Source -> question/answer pairs in them.
        shards: All shards of the set.

    Raises:
        ValueError: Naming the source and both sides of the sum.
    """
    for name, num_records in records.items():
        rejected = counts.rejected.get(name, Rejections())
        found = counts.used_records.get(name, 0) + rejected.counts.total()
        if found != num_records:
            raise ValueError(f"{name}: {num_records} records, but {found} accounted for")
        found = counts.used_pairs.get(name, 0) + rejected.pairs.total()
        if found != pairs[name]:
            raise ValueError(f"{name}: {pairs[name]} pairs in records, but {found} accounted for")
    used_pairs = sum(counts.used_pairs.values())
    num_rounds = sum(pc.sum(shard.rows["num_rounds"]).as_py() for shard in shards)
    if used_pairs != num_rounds:
        raise ValueError(f"{used_pairs} pairs used, but {num_rounds} rounds are stored")
