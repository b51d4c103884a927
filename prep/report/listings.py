"""The lines that a report's page and the command print: rejections, repairs, marks, identities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vchat.prep.raw.rejected import REASONS


def list_rejections(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one line per source and reason: what was rejected, at which step, with examples."""
    lines = []
    for name, one in found["sources"].items():
        steps = (("row", one["converted"]["rejected_rows"]), ("record", one["rejected_later"]))
        for kind, reasons in steps:
            for reason, count in reasons["counts"].items():
                examples = reasons["examples"].get(reason, [])
                lines.append(_rejection_line(name, reason, count, kind=kind, examples=examples))
        for reason, count in one["converted"]["rejected_pairs"].items():
            if count:
                examples = one["converted"]["pair_examples"].get(reason, [])
                lines.append(_rejection_line(name, reason, count, kind="pair", examples=examples))
    return lines


def list_repairs(found: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Return `(source, rule, image ids that it found)` of every rule that was needed."""
    return [
        (name, rule, count)
        for name, one in found["sources"].items()
        for rule, count in one["converted"]["repairs"].items()
        if count
    ]


def list_marks(found: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Return `(source, mark, records that carry it)`."""
    return [
        (name, mark, count)
        for name, one in found["sources"].items()
        for mark, count in one["converted"].get("marks", {}).items()
    ]


def list_identities(found: Mapping[str, Any]) -> list[tuple[str, str, int, int]]:
    """Return `(source, kind of key, images that it names, those compared by bytes)`.

    Kinds are those of `identity.KINDS`.
    """
    return [
        (name, kind, count, one["converted"]["compared"].get(kind, 0))
        for name, one in found["sources"].items()
        for kind, count in one["converted"].get("identity", {}).items()
    ]


def _rejection_line(
    name: str, reason: str, count: int, *, kind: str, examples: list[str]
) -> dict[str, Any]:
    return {
        "source": name,
        "reason": reason,
        "count": count,
        "kind": kind,
        "meaning": REASONS[reason],
        "examples": examples,
    }
