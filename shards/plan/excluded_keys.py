"""Lists of sample keys that a plan leaves out: text lines, or a Parquet column `key`.

The list may change between the epochs of a run, so a run keeps which list each epoch had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vchat.base.terminal_text import one_line

if TYPE_CHECKING:
    from vchat.shards.format.shard_set import ShardSet

MAX_NAMED_KEYS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ExcludeHistory:
    """The list of each epoch of a run: it holds from its epoch on, until the next one."""

    lists: tuple[tuple[int, tuple[str, ...]], ...]
    """`(first epoch, keys)`, ascending, at least one. The first also stands for epochs before."""

    def keys_of(self, epoch: int) -> tuple[str, ...]:
        """Return the keys that an epoch leaves out."""
        begun = [keys for first, keys in self.lists if first <= epoch]
        return begun[-1] if begun else self.lists[0][1]

    def change_from(self, epoch: int, keys: tuple[str, ...]) -> ExcludeHistory:
        """Return the history in which this epoch and all later ones have these keys."""
        before = tuple(entry for entry in self.lists if entry[0] < epoch)
        if before and before[-1][1] == keys:
            return ExcludeHistory(lists=before)
        return ExcludeHistory(lists=(*before, (epoch, keys)))

    def as_json(self) -> dict[str, Any]:
        """Return the history as JSON values."""
        return {"lists": [{"from_epoch": first, "keys": list(keys)} for first, keys in self.lists]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, name: str) -> ExcludeHistory:
        """Read what `as_json` gave.

        Raises:
            ValueError: it is something else; names the file `name`.
        """
        try:
            lists = [(one["from_epoch"], tuple(one["keys"])) for one in value["lists"]]
        except (KeyError, TypeError) as err:
            raise ValueError(f"{name}: wanted lists with from_epoch and keys") from err
        epochs = [first for first, _ in lists]
        keys = [key for _, some in lists for key in some]
        if not lists or not all(isinstance(n, int) for n in epochs) or epochs != sorted(epochs):
            raise ValueError(f"{name}: from_epoch has {epochs[:5]}, wanted ascending numbers")
        if not all(isinstance(key, str) for key in keys):
            raise ValueError(f"{name}: wanted keys that are texts")
        return cls(lists=tuple(lists))


def read_keys(path: Path) -> tuple[str, ...]:
    """Return the keys of a list, sorted, each once.

    Raises:
        ValueError: a Parquet file has no column `key` of texts, or the file is neither Parquet nor
            text; names the file.
        OSError: unreadable.
    """
    if path.suffix == ".parquet":
        keys = _read_key_column(path)
    else:
        try:
            keys = list(path.read_text(encoding="utf-8").splitlines())
        except UnicodeDecodeError as err:
            raise ValueError(f"{path} is no text in UTF-8: {err}") from err
    return tuple(sorted({key for key in keys if key}))


def _read_key_column(path: Path) -> list[str | None]:
    try:
        schema = pq.read_schema(path)
    except pa.ArrowInvalid as err:
        raise ValueError(f"{path} is no Parquet file: {err}") from err
    if "key" not in schema.names:
        raise ValueError(f"{path} has columns {', '.join(schema.names)}, wanted one called key")
    kind = schema.field("key").type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise ValueError(f"{path} has keys of type {kind}, wanted texts")
    keys: list[str | None] = pq.read_table(path, columns=["key"])["key"].to_pylist()
    return keys


def find_unknown_keys(keys: Sequence[str], *, shard_sets: Sequence[ShardSet]) -> list[str]:
    """Return the keys that no sample of any split has, in their order."""
    unknown = pa.array(keys, pa.large_string())
    for shard_set in shard_sets:
        present = shard_set.index()["key"].cast(pa.large_string())
        unknown = unknown.filter(pc.invert(pc.is_in(unknown, value_set=present)))
    found: list[str] = unknown.to_pylist()
    return found


def describe_unknown_keys(unknown: Sequence[str], *, num_keys: int, name: str) -> str:
    """Return one line that counts the unknown keys of a list, and names the first of them."""
    named = ", ".join(one_line(key) for key in unknown[:MAX_NAMED_KEYS])
    more = len(unknown) - MAX_NAMED_KEYS
    return (
        f"{name}: {len(unknown):,} of {num_keys:,} keys are of no sample in these shards: {named}"
        + (f" and {more:,} more" if more > 0 else "")
    )
