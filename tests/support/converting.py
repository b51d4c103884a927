"""Converts a source in a test, and checks what became of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vchat.prep.convert.convert import ImageLimits, convert_source
from vchat.prep.convert.doctor import Finding, examine_source
from vchat.prep.convert.recipe import Recipe, SourceChoice
from vchat.prep.convert.resolve import resolve_source
from vchat.prep.convert.staged import RecordFile, write_record_file
from vchat.prep.raw.identity import Identity
from vchat.prep.raw.image_files import ImageFiles
from vchat.prep.sources.source import Source, check_needs
from vchat.shards.format.record import Record


def run_source(
    source: Source,
    data: Path,
    *,
    work: Path,
    roots: Sequence[Path] = (),
    max_images: int | None = None,
    identity: Identity | None = None,
) -> tuple[list[Record], dict[str, Any]]:
    """Convert a source and return its records and its tally."""
    check_needs(source, data)
    folders = [path for need in source.needs for path in need.paths if path.endswith("/")]
    images = ImageFiles([*roots, data], folders=folders, identity=identity)
    staged = convert_source(
        source,
        data=data,
        images=images,
        work=work,
        limits=ImageLimits(image_size=224, max_images=max_images),
        on_entry=lambda: None,
    )
    arrow = work / "records.arrow"
    write_record_file(staged.path, arrow)
    with RecordFile(arrow) as records:
        return records.records(range(len(records))), staged.tally


def expect(
    tally: dict[str, Any],
    *,
    records: int,
    rows: dict[str, int],
    pairs: dict[str, int] | None = None,
) -> None:
    """Check a tally against the expected reasons, and that nothing is missing."""
    assert tally["rejected_rows"]["counts"] == rows
    assert {reason: n for reason, n in tally["rejected_pairs"].items() if n} == (pairs or {})
    assert tally["records"] == records
    assert tally["rows"] == records + sum(rows.values())
    lost = sum(tally["rejected_rows"]["pairs"].values()) + sum(tally["rejected_pairs"].values())
    assert tally["pairs"] == tally["record_pairs"] + lost


def expected(rows: Sequence[tuple[Any, str | None]]) -> tuple[int, dict[str, int]]:
    """Return (records, reason -> count) of a list of (entry, reason or None)."""
    reasons = [reason for _, reason in rows if reason is not None]
    return len(rows) - len(reasons), {
        reason: reasons.count(reason) for reason in sorted(set(reasons))
    }


def examine(name: str, data: Path) -> Finding:
    """Return what `vchat-prep doctor` finds about a data set."""
    resolved = resolve_source(SourceChoice(name=name), recipe=Recipe(data=str(data)))
    return examine_source(resolved, sample=20, max_images=8, on_entry=lambda: None)
