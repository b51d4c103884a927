"""`vchat-train report`: the curves of a run as one self-contained page, drawn from its log alone.

In: OUT/log.jsonl. Out: OUT/report.html, with one SVG per quantity, and no script or outside file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from vchat.shards.files import written_whole

CURVES = {
    "loss": "Loss per supervised token",
    "eval_loss": "Held-out loss per supervised token",
    "lr": "Learning rate",
    "tokens_per_s": "Tokens per second",
    "data_wait_share": "Share of time waiting for data",
    "padding_share": "Share of padding",
    "memory_gb": "Peak memory of rank 0, GB",
}
WIDTH, HEIGHT = 640, 180

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{ title }}</title>
<style>
body { font: 15px system-ui, sans-serif; max-width: 700px; margin: 2em auto; padding: 0 1em }
h2 { font-size: 1em; margin: 1.6em 0 .3em } small { color: #666; font-weight: normal }
svg { width: 100%; border: 1px solid #ccc; background: #fff }
polyline { fill: none; stroke: #1763ad; stroke-width: 1.5 }
</style>
<h1>{{ title }}</h1>
<p>{{ num_steps }} logged steps, {{ first }} to {{ last }}.
{% if skipped %}Micro-batches left out: {{ skipped }}.{% endif %}</p>
{% for curve in curves %}
<h2>{{ curve.title }}
<small>last {{ curve.last }}, least {{ curve.least }}, most {{ curve.most }}</small></h2>
<svg viewBox="0 0 {{ width }} {{ height }}" role="img" aria-label="{{ curve.title }} by step">
<polyline points="{{ curve.points }}"/></svg>
{% endfor %}
</html>
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One quantity over the steps, ready for the page."""

    title: str
    points: str
    """`x,y` in pixels of the drawing, from its top left corner."""

    least: str
    most: str
    last: str


def write_report(out: Path) -> Path:
    """Draw the log of a run and return the page's path.

    Raises:
        ValueError: if there is no log, or a line of it is not JSON.
    """
    lines = log_lines(out / "log.jsonl")
    steps = [int(line["step"]) for line in lines]
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(PAGE)
    html = page.render(
        title=f"Training of {out.name}",
        num_steps=len(lines),
        first=steps[0],
        last=steps[-1],
        skipped=sum(int(line.get("skipped_micro_batches", 0)) for line in lines),
        curves=[c for name, title in CURVES.items() if (c := curve(lines, name, title=title))],
        width=WIDTH,
        height=HEIGHT,
    )
    with written_whole(out / "report.html") as file:
        file.write(html.encode())
    return out / "report.html"


def log_lines(path: Path) -> list[dict[str, Any]]:
    """Read a log. Raises ValueError naming file and line."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no log; want the run.out folder of a run")
    lines = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError as err:
            raise ValueError(f"{path}: line {number} is not JSON: {err}") from err
    if not lines:
        raise ValueError(f"{path}: the log is empty")
    return lines


def curve(lines: Sequence[dict[str, Any]], name: str, *, title: str) -> Curve | None:
    """Scale one quantity to the drawing; None if no line has it."""
    pairs = [(float(line["step"]), float(line[name])) for line in lines if name in line]
    if not pairs:
        return None
    steps, values = zip(*pairs, strict=True)
    least, most = min(values), max(values)
    xs = scaled(steps, low=steps[0], high=steps[-1], length=WIDTH - 20)
    ys = scaled(values, low=least, high=most, length=HEIGHT - 20)
    return Curve(
        title=title,
        points=" ".join(f"{10 + x:.1f},{HEIGHT - 10 - y:.1f}" for x, y in zip(xs, ys, strict=True)),
        least=f"{least:.5g}",
        most=f"{most:.5g}",
        last=f"{values[-1]:.5g}",
    )


def scaled(values: Sequence[float], *, low: float, high: float, length: float) -> list[float]:
    """Map `low`..`high` to 0..`length`; all to the middle if there is no range."""
    if high == low:
        return [length / 2 for _ in values]
    return [(value - low) / (high - low) * length for value in values]
