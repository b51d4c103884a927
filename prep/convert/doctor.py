"""Examine a source before any long work: files, counts, repairs, expected losses, formats.

In: a source and the data folder. Out: a finding. The source's own code reads the entries, and all
are counted; a sample of them, drawn by a keyed hash of their ids, is converted and its images are
decoded as a build would do it. Memory: the entries of the sample, and what the source itself holds.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

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
"""How far a count may be from an approximate known one, as a share of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundNeed:
    """Which files there are of a file or folder that a source reads."""

    need: Need
    paths: tuple[str, ...]
    """Below the data folder; empty if it is missing."""

    packaging: str
    """`folder`, `zip`, `tar`, `Parquet` or `JSON`; empty if it is missing."""

    missing_parts: tuple[str, ...] = ()
    """Files that are missing from a sequence, as the names of the others show."""


@dataclass(slots=True, kw_only=True)
class TrialCounts:
    """What became of the entries of the sample."""

    num_entries: int = 0
    num_records: int = 0
    """Entries that gave a record whose images can all be decoded."""

    num_images: int = 0
    """Images of the converted records, including those that a record may leave out."""

    rejected: Counter[str] = field(default_factory=Counter)
    """Reason code -> entries."""

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
    """Question/answer pairs in all entries."""

    comparison: str = ""
    """How the entries compare with what is known of the data set; empty if nothing is known."""

    trial: TrialCounts = field(default_factory=TrialCounts)

    def estimate_losses(self) -> dict[str, int]:
        """Return reason -> how many of all entries it will cost, projected from the sample."""
        scale = self.num_entries / max(1, self.trial.num_entries)
        return {reason: round(n * scale) for reason, n in sorted(self.trial.rejected.items())}

    def as_json(self) -> dict[str, Any]:
        """Return what `vchat-prep doctor --json` prints."""
        trial = self.trial
        return {
            "status": self.status,
            "problem": self.problem,
            "needs": [
                {
                    "paths": need.need.paths,
                    "found": need.paths,
                    "packaging": need.packaging,
                    "missing_parts": need.missing_parts,
                    "how": need.need.how,
                }
                for need in self.needs
            ],
            "rows": self.num_entries,
            "pairs": self.num_pairs,
            "count": self.comparison,
            "expected_losses": self.estimate_losses(),
            "sample": {
                "rows": trial.num_entries,
                "records": trial.num_records,
                "images": trial.num_images,
                "rejected": dict(trial.rejected),
                "repairs": dict(trial.repairs),
                "formats": dict(trial.formats),
            },
        }


def examine_source(
    resolved: ResolvedSource, *, sample: int, max_images: int, on_entry: Callable[[], None]
) -> Finding:
    """Return what a build of one source would meet.

    Args:
        resolved: The source and where its files lie.
        sample: How many entries are converted and their images decoded.
        max_images: A build's limit for one dialogue; records above it count as lost.
        on_entry: Called once per entry counted, for progress.
    """
    source, name = resolved.source, resolved.source.name
    needs = tuple(_find_need(need, resolved.data) for need in source.needs)
    try:
        check_needs(source, resolved.data)
    except ValueError as missing:
        return Finding(name=name, status="missing", needs=needs, problem=str(missing))
    try:
        entries = source.read_entries(resolved.data)
        num_entries, num_pairs, chosen = _count_entries(entries, sample=sample, on_entry=on_entry)
        trial = _try_entries(chosen, resolved, max_images=max_images)
    except (ValueError, OSError) as broken:
        return Finding(name=name, status="broken", needs=needs, problem=str(broken))
    problem = _describe_failure(name, trial)
    return Finding(
        name=name,
        status="broken" if problem else "ready",
        needs=needs,
        problem=problem,
        num_entries=num_entries,
        num_pairs=num_pairs,
        comparison=compare_count(source.known_count, num_entries=num_entries, num_pairs=num_pairs),
        trial=trial,
    )


def _describe_failure(name: str, trial: TrialCounts) -> str:
    """Say why no entry of the sample is usable; empty if one is."""
    if trial.num_records:
        return ""
    reasons = ", ".join(trial.rejected) or "the annotation files hold no rows"
    return f"{name}: none of {trial.num_entries} rows tried is usable: {reasons}"


def _find_need(need: Need, data: DataPath) -> FoundNeed:
    paths = existing_paths(need, data)
    return FoundNeed(
        need=need,
        paths=tuple(path_below(path, data) for path in paths),
        packaging=_packaging(paths[0]) if paths else "",
        missing_parts=tuple(find_missing_parts([path.name for path in paths])),
    )


def _packaging(path: DataPath) -> str:
    if path.is_dir():
        return "folder"
    if path.suffix in (".zip", ".tar"):
        return path.suffix[1:]
    return "Parquet" if is_parquet(path) else "JSON"


def find_missing_parts(names: Sequence[str]) -> list[str]:
    """Return the names that are missing from sequences such as `train-00001-of-00053.parquet`."""
    present: dict[tuple[str, str, str], set[int]] = {}
    for name in names:
        stem, dot, suffix = name.partition(".")
        if match := _PART_OF.fullmatch(stem):
            present.setdefault((match[1], match[3], dot + suffix), set()).add(int(match[2]))
    return [
        f"{prefix}-{number:0{len(total)}d}-of-{total}{suffix}"
        for (prefix, total, suffix), numbers in sorted(present.items())
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
    is_near = abs(found - known.number) <= _NEAR * known.number
    return f"{found} {known.of}" + ("" if is_near else f", expected about {known.number}")


def _count_entries(
    entries: Iterator[Entry], *, sample: int, on_entry: Callable[[], None]
) -> tuple[int, int, list[Entry]]:
    """Return how many entries and pairs there are, and the entries of least hash, in file order."""
    num_entries = num_pairs = 0
    chosen: list[tuple[int, int, Entry]] = []
    for number, entry in enumerate(entries):
        on_entry()
        num_entries += 1
        num_pairs += entry.num_pairs
        rank = -keyed_hash(0, "doctor", entry.id)
        if len(chosen) < sample:
            heapq.heappush(chosen, (rank, number, entry))
        elif rank > chosen[0][0]:
            heapq.heapreplace(chosen, (rank, number, entry))
    in_file_order = sorted(chosen, key=lambda item: item[1])
    return num_entries, num_pairs, [entry for _, _, entry in in_file_order]


def _try_entries(
    entries: Sequence[Entry], resolved: ResolvedSource, *, max_images: int
) -> TrialCounts:
    images = ImageFiles(resolved.roots, folders=resolved.folders)
    may_leave_out = resolved.source.may_leave_out_images
    trial = TrialCounts(num_entries=len(entries))
    for entry in entries:
        try:
            _try_entry(entry, images, trial, max_images=max_images, may_leave_out=may_leave_out)
        except Rejected as rejected:
            trial.rejected[rejected.reason] += 1
        else:
            trial.num_records += 1
    return trial


def _try_entry(
    entry: Entry, images: ImageFiles, trial: TrialCounts, *, max_images: int, may_leave_out: bool
) -> None:
    """Convert an entry and decode its images, as a build does.

    Raises:
        Rejected: As a build rejects it.
    """
    converted = entry.convert()
    record = subsample_images(converted.record, max_images=max_images if may_leave_out else None)
    located = [images.locate(image) for image in record.images]
    trial.num_images += len(converted.record.images)
    trial.repairs.update({rule: n for rule, n in converted.repairs.items() if n})
    for image in located:
        data = images.read(image)
        trial.formats[sniff_format(data[:16]) or "unknown"] += 1
        encode_for_shard(data, ImagePolicy(), key=image.key, name=image.key or image.file)
    if len(located) > max_images:
        raise Rejected("too_many_images", f"{len(located)} images, the limit is {max_images}")
