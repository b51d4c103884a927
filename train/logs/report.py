"""The curves of a run as one self-contained page and one picture.

In: OUT/log.jsonl. Out: OUT/report.html, with a drawing for each quantity in it and no script or
outside file, and OUT/report.png, all drawings in one. Drawn by matplotlib (extra `watch`).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vchat.base.files import write_atomically
from vchat.base.page import load_page
from vchat.train.logs.curves import PANELS, draw_panels, draw_svg
from vchat.train.logs.log import read_log


def write_report(out: Path) -> list[Path]:
    """Draw the log of a run; return the paths of page and picture.

    Raises:
        ValueError: if there is no log, or a line of it is not JSON.
        WrongUse: matplotlib is not installed.
    """
    lines = read_log(out / "log.jsonl")
    shown = [panel for panel in PANELS if panel.curves(lines)]
    page = load_page(Path(__file__).with_name("report.html"))
    html = page.render(
        title=f"Training of {out.name}",
        facts=summary_facts(lines),
        sources=last_losses(lines),
        panels=[{"title": panel.title, "svg": draw_svg(panel, lines)} for panel in shown],
    )
    picture = io.BytesIO()
    draw_panels(shown, lines, title=out.name, file=picture)
    for name, content in (("report.html", html.encode()), ("report.png", picture.getvalue())):
        with write_atomically(out / name) as file:
            file.write(content)
    return [out / "report.html", out / "report.png"]


def summary_facts(lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return the facts above the curves: steps, losses, speed, what was skipped."""
    last = lines[-1]
    held_out = [(line["eval_loss"], line["step"]) for line in lines if "eval_loss" in line]
    found = [("logged steps", f"{len(lines):,}, {lines[0]['step']:,} to {last['step']:,}")]
    if "loss" in last:
        found.append(("loss, last", f"{last['loss']:.4f}"))
    if held_out:
        best, step = min(held_out)
        found.append(("held-out loss, last", f"{held_out[-1][0]:.4f}"))
        found.append(("held-out loss, best", f"{best:.4f} at step {step:,}"))
    for name, title, form in (
        ("tokens_per_s", "tokens/s, median", ",.0f"),
        ("mfu", "MFU, median", ".1%"),
        ("data_wait_share", "waiting for data, median", ".1%"),
        ("padding_share", "padding, median", ".1%"),
    ):
        values = sorted(line[name] for line in lines if name in line)
        if values:
            found.append((title, format(values[len(values) // 2], form)))
    memory = [line["memory_gb"] for line in lines if "memory_gb" in line]
    if memory:
        found.append(("memory, peak of rank 0", f"{max(memory):.2f} GB"))
    skipped = sum(int(line.get("skipped_micro_batches", 0)) for line in lines)
    if skipped:
        found.append(("micro-batches left out", f"{skipped:,}"))
    if "loss_scale" in last:
        found.append(("fp16 loss scale, last", f"{last['loss_scale']:,g}"))
    if last.get("skipped_steps"):
        lost = f"{last['skipped_steps']:,}, with {last['skipped_rows']:,} rows"
        found.append(("steps without an update", lost))
    return found


def last_losses(lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Return each source with its last loss in training and its last held-out loss, as text."""
    last: dict[str, dict[str, float]] = {"loss_by_source": {}, "eval_loss_by_source": {}}
    for line in lines:
        for name in last:
            last[name] |= line.get(name, {})
    names = sorted({name for of_sources in last.values() for name in of_sources})
    train, held_out = last["loss_by_source"], last["eval_loss_by_source"]
    return [
        (name, _format_loss(train.get(name)), _format_loss(held_out.get(name))) for name in names
    ]


def _format_loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
