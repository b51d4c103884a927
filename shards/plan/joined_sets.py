"""Several shard sets read as one: their indexes end to end, their shards numbered on.

All sets must have the same tokenizer and template, or a row would mix two token languages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from vchat.shards.format.shard_set import ShardSet
from vchat.shards.plan.plan_index import PlanIndex
from vchat.shards.storage.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedSets:
    """One split of one or more shard sets, as a plan and a reader need it."""

    sets: tuple[ShardSet, ...]
    table: pa.Table
    """Index entries of all sets, end to end; the column `shard` counts on through them."""

    index: PlanIndex
    shards: list[tuple[Store, str]]
    """For each shard number, the store that has it and its name there."""

    num_ids: int
    """The highest token id + 1."""

    image_id: int
    pad_id: int
    """The end token; it fills positions without a sample."""

    def locate(self, number: int) -> tuple[ShardSet, dict[str, Any]]:
        """Return the shard set that has a sample, and the sample's index entry as that set has it.

        Args:
            number: of the sample in the split, as plans have it.
        """
        entry: dict[str, Any] = self.table.slice(number, 1).to_pylist()[0]
        set_of_shard = self.index.set_of_shard
        set_number = int(set_of_shard[entry["shard"]])
        first_shard = int(np.searchsorted(set_of_shard, set_number))
        return self.sets[set_number], entry | {"shard": entry["shard"] - first_shard}


def join_sets(shard_sets: Sequence[ShardSet], *, split: str) -> JoinedSets:
    """Join one split of shard sets, in the order given.

    Raises:
        ValueError: there is no set, they differ in tokenizer or template, or one lacks the split.
    """
    if not shard_sets:
        raise ValueError("no shard set given, wanted at least one")
    for other in shard_sets[1:]:
        check_same_language(shard_sets[0], other)
    tables: list[pa.Table] = []
    shards: list[tuple[Store, str]] = []
    set_of_shard: list[int] = []
    for number, shard_set in enumerate(shard_sets):
        tables.append(with_shards_from(shard_set.index(split), first=len(shards)))
        names = [shard["name"] for shard in shard_set.manifest["shards"]]
        shards += [(shard_set.store, name) for name in names]
        set_of_shard += [number] * len(names)
    table = pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()
    index = PlanIndex.from_table(
        table,
        digest=join_digests([s.manifest["digests"]["index"] for s in shard_sets]),
        set_of_shard=np.array(set_of_shard, np.int32),
    )
    ids: dict[str, Any] = shard_sets[0].manifest["tokenizer"]
    return JoinedSets(
        sets=tuple(shard_sets),
        table=table,
        index=index,
        shards=shards,
        num_ids=ids["num_ids"],
        image_id=ids["image_id"],
        pad_id=ids["end_id"],
    )


def check_same_language(first: ShardSet, other: ShardSet) -> None:
    """Raise ValueError if two sets have different tokenizers or templates; names both."""
    for what in ("tokenizer", "template"):
        digests = [shard_set.manifest["digests"][what] for shard_set in (first, other)]
        if digests[0] != digests[1]:
            raise ValueError(
                f"{first.folder} and {other.folder} cannot be read together: their {what} digests "
                f"are {digests[0]} and {digests[1]}"
            )
    special = [
        {name: one.manifest["tokenizer"][name] for name in ("end_id", "image_id", "num_ids")}
        for one in (first, other)
    ]
    if special[0] != special[1]:
        raise ValueError(
            f"{first.folder} and {other.folder} cannot be read together: their ids are {special[0]}"
            f" and {special[1]}"
        )


def with_shards_from(table: pa.Table, *, first: int) -> pa.Table:
    """Return the table with shard numbers that start at `first`."""
    column = table.schema.get_field_index("shard")
    numbers = pa.array(table["shard"].to_numpy() + np.int32(first), pa.int32())
    return table.set_column(column, "shard", numbers)


def join_digests(digests: Sequence[str]) -> str:
    """Return the digest of index digests in order; that of one set is its own."""
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
