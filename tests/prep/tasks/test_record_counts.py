"""Every record and every pair is used or rejected, source by source; the sums are checked."""

import pyarrow as pa
import pytest

from vchat.prep.raw.rejected import Rejected
from vchat.prep.tasks.assemble import AssembledDialogue
from vchat.prep.tasks.record_counts import RecordCounts, check_conservation
from vchat.shards.format.publish import FinishedShard
from vchat.shards.format.record import Record, Round


def record(source: str, number: int, *, num_rounds: int = 1) -> Record:
    rounds = tuple(Round(images=(), question="Q?", answer="A.") for _ in range(num_rounds))
    names = {"licence": "", "file": "f.json", "record_id": str(number)}
    return Record(key=f"{source}/{number}", source=source, rounds=rounds, **names)


def count(used: list[Record], rejected: list[Record] | None = None) -> RecordCounts:
    counts = RecordCounts()
    why = Rejected("too_long", "9 positions")
    losses = tuple((one, why) for one in rejected or [])
    counts.add_dialogue(AssembledDialogue(samples=(), used=tuple(used), rejected=losses))
    return counts


def shard(*, num_rounds: int) -> FinishedShard:
    rows = pa.table({"num_rounds": pa.array([num_rounds], pa.int32())})
    return FinishedShard(name="a.tar", split="train", size_bytes=1, sha256="", rows=rows)


def test_used_and_rejected_records_make_up_all_records():
    counts = count([record("a", 1, num_rounds=2)], [record("a", 2)])
    counts.merge(count([record("b", 1)]))
    check_conservation(
        counts, records={"a": 2, "b": 1}, pairs={"a": 3, "b": 1}, shards=[shard(num_rounds=3)]
    )


def test_a_record_lost_in_one_source_is_not_made_up_for_by_another():
    counts = count([record("a", 1), record("b", 1), record("b", 1)])
    with pytest.raises(ValueError, match="a: 2 records, but 1 accounted for"):
        check_conservation(
            counts, records={"a": 2, "b": 1}, pairs={"a": 2, "b": 1}, shards=[shard(num_rounds=3)]
        )


def test_a_lost_pair_is_noticed_though_its_record_is_used():
    counts = count([record("a", 1, num_rounds=1)])
    with pytest.raises(ValueError, match="a: 2 pairs in records, but 1 accounted for"):
        check_conservation(counts, records={"a": 1}, pairs={"a": 2}, shards=[shard(num_rounds=1)])


def test_a_round_that_is_not_stored_is_noticed():
    counts = count([record("a", 1, num_rounds=2)])
    with pytest.raises(ValueError, match="2 pairs used, but 1 rounds are stored"):
        check_conservation(counts, records={"a": 1}, pairs={"a": 2}, shards=[shard(num_rounds=1)])


def test_counts_come_back_from_their_json():
    counts = count([record("a", 1)], [record("a", 2), record("b", 1)])
    assert RecordCounts.from_json(counts.as_json()) == counts
