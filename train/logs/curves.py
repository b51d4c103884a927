"""The curves of a run's log, drawn by matplotlib: which share a panel, and how they look.

A noisy curve is drawn faintly, with its running mean on top.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from vchat.base.cli import WrongUse

COLORS = ("#1763ad", "#d1572b", "#2b8a5a", "#8a4fbd", "#c29a12", "#3aa0b5", "#b5446e", "#6b7a8f")
SMOOTH_FROM = 60
"""Points from which on a running mean is drawn."""

LogLines = Sequence[Mapping[str, Any]]
Points = list[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One drawing: quantities of one unit over the steps."""

    title: str
    names: tuple[str, ...]
    """Names in the log; one that is a table there gives a curve for each of its keys."""

    labels: tuple[str, ...] = ()
    """Names in the legend; not needed if there is one curve, which the title names."""

    percent: bool = False
    logarithmic: bool = False
    """If all values are above 0 and differ by more than a factor of ten."""

    noisy: bool = True
    """Whether a running mean helps."""

    def curves(self, lines: LogLines) -> dict[str, Points]:
        """Return label -> points `(step, value)` of every curve that has any."""
        found: dict[str, Points] = {}
        labels = self.labels or self.names
        for name, label in zip(self.names, labels, strict=True):
            for line in lines:
                value = line.get(name)
                if isinstance(value, Mapping):
                    for part, number in value.items():
                        found.setdefault(part, []).append((line["step"], number))
                elif value is not None:
                    found.setdefault(label, []).append((line["step"], value))
        return found


PANELS = (
    Panel(
        title="Loss per supervised token",
        names=("loss", "eval_loss"),
        labels=("training", "held out"),
        logarithmic=True,
    ),
    Panel(title="Training loss by source", names=("loss_by_source",), logarithmic=True),
    Panel(title="Held-out loss by source", names=("eval_loss_by_source",), logarithmic=True),
    Panel(title="Learning rate", names=("lr",), noisy=False),
    Panel(title="Tokens per second", names=("tokens_per_s",)),
    Panel(title="Share of the accelerators' peak (MFU)", names=("mfu",), percent=True),
    Panel(
        title="Share of time waiting for data, share of padding",
        names=("data_wait_share", "padding_share"),
        labels=("waiting", "padding"),
        percent=True,
    ),
    Panel(title="fp16 loss scale", names=("loss_scale",), logarithmic=True, noisy=False),
    Panel(title="Steps without an update", names=("skipped_steps",), noisy=False),
    Panel(title="Peak memory of rank 0, GB", names=("memory_gb",), noisy=False),
)


def draw_svg(panel: Panel, lines: LogLines) -> str:
    """Draw one panel as an SVG element, without the declarations of a file."""
    figure = _figure(width=6.2, height=2.9)
    _draw(figure.subplots(), panel, lines)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
    return re.sub(r"^.*?(?=<svg)", "", file.getvalue(), flags=re.DOTALL)


def draw_panels(panels: Sequence[Panel], lines: LogLines, *, title: str, file: IO[bytes]) -> None:
    """Draw all panels into one PNG, two per line."""
    height = (len(panels) + 1) // 2
    figure = _figure(width=13, height=3.2 * height + 0.5)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    axes = figure.subplots(height, 2, squeeze=False).flatten()
    for panel, axis in zip(panels, axes, strict=False):
        _draw(axis, panel, lines)
        axis.set_title(panel.title, loc="left", fontsize=10)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    figure.savefig(file, format="png", dpi=110)


def _figure(*, width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as err:
        raise WrongUse(
            "the report is drawn by matplotlib, which is not installed; pip install 'vchat[watch]'"
        ) from err
    return Figure(figsize=(width, height), layout="constrained")


def _draw(axis: Any, panel: Panel, lines: LogLines) -> None:
    from matplotlib.ticker import LogLocator, PercentFormatter, ScalarFormatter

    curves = panel.curves(lines)
    colors = {label: COLORS[i % len(COLORS)] for i, label in enumerate(order_labels(curves))}
    for label, points in order_by_last_value(curves):
        _draw_curve(axis, points, label=label, color=colors[label], noisy=panel.noisy)
    values = [value for points in curves.values() for _, value in points]
    if panel.logarithmic and min(values) > 0 and max(values) > 10 * min(values):
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(ScalarFormatter())
        axis.yaxis.set_minor_formatter("")
    elif min(values) >= 0:
        axis.set_ylim(bottom=0)
    if panel.percent:
        axis.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    if len(curves) > 1:
        axis.legend(fontsize=8, frameon=False, ncols=2)
    axis.set_xlabel("step", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def _draw_curve(axis: Any, points: Points, *, label: str, color: str, noisy: bool) -> None:
    steps, values = zip(*points, strict=True)
    if len(points) < SMOOTH_FROM:
        dots = "o-" if len(points) <= SMOOTH_FROM // 2 else "-"
        axis.plot(steps, values, dots, color=color, label=label, markersize=3.5, linewidth=1.2)
    elif noisy:
        axis.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
        axis.plot(steps, running_mean(values), color=color, linewidth=1.6, label=label)
    else:
        axis.plot(steps, values, color=color, linewidth=1.6, label=label)


def order_labels(curves: Mapping[str, Points]) -> list[str]:
    """Return labels in an order that is equal in every panel, so that a source keeps its color."""
    return sorted(curves, key=lambda label: (label == "held out", label))


def order_by_last_value(curves: Mapping[str, Points]) -> list[tuple[str, Points]]:
    """Order curves by their last value, highest first, as they end at the right."""
    return sorted(curves.items(), key=lambda curve: -curve[1][-1][1])


def running_mean(values: Sequence[float]) -> list[float]:
    """Return the mean around each value over a twentieth of all, over fewer at the ends."""
    half_width = len(values) // 40
    sums = [0.0, *itertools.accumulate(values)]
    means = []
    for i in range(len(values)):
        half = min(half_width, i, len(values) - 1 - i)
        means.append((sums[i + half + 1] - sums[i - half]) / (2 * half + 1))
    return means
