"""What a build would meet, before any long work: files, counts, repairs, expected losses, formats.

In: a source and the data folder. Out: a finding. Rows are read by the source's own code and all are
counted; a sample of them, drawn by a keyed hash of their ids, is converted and its images decoded
as a build would do it. Memory: the rows of the sample, and what the source itself holds.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from vchat.prep.convert.convert import subsample_images
from vchat.prep.convert.images import ImagePolicy, encode_for_shard
from vchat.prep.convert.resolve import ResolvedSource
from vchat.prep.raw.data_path import DataPath, path_below
from vchat.prep.raw.image_files import ImageFiles
from vchat.prep.raw.keyed_hash import keyed_hash
from vchat.prep.raw.parquet_cells import is_parquet
from vchat.prep.raw.rejected import Rejected
from vchat.prep.sources.source import Entry, KnownCount, Need, check_needs, existing_paths
from vchat.shards.pixels.header import sniff_format

_PART_OF = re.compile(r"(.*)-(\d+)-of-(\d+)")
_NEAR = 0.02
"""How far a count may be from one that is known about, as a share of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundNeed:
    """What is there of a file or folder that a source reads."""

    need: Need
    places: tuple[str, ...]
    """Below the data folder; empty if it is missing."""

    packaging: str
    """`folder`, `zip`, `tar`, `Parquet` or `JSON`; empty if it is missing."""

    missing_parts: tuple[str, ...] = ()
    """Files that are not there although the names of the others count them."""


@dataclass(slots=True, kw_only=True)
class TrialCounts:
    """What became of the rows of the sample."""

    num_entries: int = 0
    num_records: int = 0
    """Rows that gave a record whose images can all be decoded."""

    num_images: int = 0
    """Images of the converted records, those included that a record may leave out."""

    rejected: Counter[str] = field(default_factory=Counter)
    """Reason code -> rows."""

    repairs: Counter[str] = field(default_factory=Counter)
    """Rule -> image ids found by it."""

    formats: Counter[str] = field(default_factory=Counter)
    """Format by the leading bytes -> images; `unknown` for other bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Everything found out about one source."""

    name: str
    status: Literal["ready", "missing", "broken"]
    """`broken`: the files are there, and a build fails on them."""

    needs: tuple[FoundNeed, ...]
    problem: str = ""
    """Why it cannot be built, in one line; empty if it can."""

    num_entries: int = 0
    num_pairs: int = 0
    """Question/answer pairs in all rows."""

    comparison: str = ""
    """How the rows compare with what is known of the data set; empty where nothing is known."""

    trial: TrialCounts = field(default_factory=TrialCounts)

    def estimate_losses(self) -> dict[str, int]:
        """Return reason -> how many of all rows it will cost, as the sample has it."""
        scale = self.num_entries / max(1, self.trial.num_entries)
        return {reason: round(n * scale) for reason, n in sorted(self.trial.rejected.items())}


def examine_source(
    one: ResolvedSource, *, sample: int, max_images: int, on_entry: Callable[[], None]
) -> Finding:
    """Return what a build of one source would meet.

    Args:
        sample: how many rows are converted and their images decoded.
        max_images: a build's limit for one dialogue; records above it count as lost.
        on_entry: called once per row counted, for progress.
    """
    needs = tuple(_find_need(need, one.data) for need in one.source.needs)
    try:
        check_needs(one.source, one.data)
    except ValueError as missing:
        return Finding(name=one.source.name, status="missing", needs=needs, problem=str(missing))
    try:
        rows, pairs, chosen = _count_entries(
            one.source.read_entries(one.data), sample=sample, on_entry=on_entry
        )
        sampled = _try_entries(chosen, one, most=max_images)
    except (ValueError, OSError) as broken:
        return Finding(name=one.source.name, status="broken", needs=needs, problem=str(broken))
    problem = ""
    if not sampled.num_records:
        reasons = ", ".join(sampled.rejected) or "the annotation files hold no rows"
        problem = (
            f"{one.source.name}: none of {sampled.num_entries} rows tried is usable: {reasons}"
        )
    return Finding(
        name=one.source.name,
        status="broken" if problem else "ready",
        needs=needs,
        problem=problem,
        num_entries=rows,
        num_pairs=pairs,
        comparison=compare_count(one.source.known_count, num_entries=rows, num_pairs=pairs),
        trial=sampled,
    )


def _find_need(need: Need, data: DataPath) -> FoundNeed:
    places = existing_paths(need, data)
    return FoundNeed(
        need=need,
        places=tuple(_below(place, data) for place in places),
        packaging=_packaging(places[0]) if places else "",
        missing_parts=tuple(find_missing_parts([place.name for place in places])),
    )


def _below(place: DataPath, data: DataPath) -> str:
    return path_below(place, data)


def _packaging(place: DataPath) -> str:
    if place.is_dir():
        return "folder"
    if place.suffix in (".zip", ".tar"):
        return place.suffix[1:]
    return "Parquet" if is_parquet(place) else "JSON"


def find_missing_parts(names: Sequence[str]) -> list[str]:
    """Return the names that are missing from sequences such as `train-00001-of-00053.parquet`."""
    there: dict[tuple[str, str, str], set[int]] = {}
    for name in names:
        stem, dot, suffix = name.partition(".")
        if match := _PART_OF.fullmatch(stem):
            there.setdefault((match[1], match[3], dot + suffix), set()).add(int(match[2]))
    return [
        f"{prefix}-{number:0{len(total)}d}-of-{total}{suffix}"
        for (prefix, total, suffix), numbers in sorted(there.items())
        for number in range(int(total))
        if number not in numbers
    ]


def compare_count(known: KnownCount | None, *, num_entries: int, num_pairs: int) -> str:
    """Say how a count compares with the known one; empty if nothing is known."""
    if known is None:
        return ""
    found = num_entries if known.of == "rows" else num_pairs
    if known.is_exact:
        text = f"all {known.number} {known.of}"
        return text if found == known.number else f"{found} of {known.number} {known.of}"
    near = abs(found - known.number) <= _NEAR * known.number
    return f"{found} {known.of}" + ("" if near else f", expected about {known.number}")


def _count_entries(
    entries: Iterator[Entry], *, sample: int, on_entry: Callable[[], None]
) -> tuple[int, int, list[Entry]]:
    """Return how many rows and pairs there are, and the rows of least hash, in file order."""
    num_rows = num_pairs = 0
    kept: list[tuple[int, int, Entry]] = []
    for number, row in enumerate(entries):
        on_entry()
        num_rows += 1
        num_pairs += row.num_pairs
        rank = -keyed_hash(0, "doctor", row.id)
        if len(kept) < sample:
            heapq.heappush(kept, (rank, number, row))
        elif rank > kept[0][0]:
            heapq.heapreplace(kept, (rank, number, row))
    return num_rows, num_pairs, [row for _, _, row in sorted(kept, key=lambda one: one[1])]


def _try_entries(entries: Sequence[Entry], one: ResolvedSource, *, most: int) -> TrialCounts:
    images = ImageFiles(one.roots, folders=one.folders)
    found = TrialCounts(num_entries=len(entries))
    for row in entries:
        try:
            _try_entry(row, images, found, most=most, may_leave_out=one.source.may_leave_out_images)
        except Rejected as rejected:
            found.rejected[rejected.reason] += 1
        else:
            found.num_records += 1
    return found


def _try_entry(
    entry: Entry, images: ImageFiles, found: TrialCounts, *, most: int, may_leave_out: bool
) -> None:
    """Convert a row and decode its images, as a build does; raises what a build rejects it for."""
    converted = entry.convert()
    record = subsample_images(converted.record, max_images=most if may_leave_out else None)
    shown = [images.locate(image) for image in record.images]
    found.num_images += len(converted.record.images)
    found.repairs.update({rule: n for rule, n in converted.repairs.items() if n})
    for image in shown:
        data = images.read(image)
        found.formats[sniff_format(data[:16]) or "unknown"] += 1
        encode_for_shard(data, ImagePolicy(), key=image.key, name=image.key)
    if len(shown) > most:
        raise Rejected("too_many_images", f"{len(shown)} images, the limit is {most}")
