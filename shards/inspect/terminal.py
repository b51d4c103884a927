"""Shard sets and dialogues as text for a terminal, or for a pipe: colors in a terminal only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vchat.base.terminal_text import cell, escape_controls
from vchat.shards.format.sample import Sample
from vchat.shards.format.shard_set import ShardSet
from vchat.shards.inspect.token_spans import token_spans

PIPE_COLUMNS = 160
"""Width of tables where there is no terminal to ask."""

COLUMNS = {
    "samples": "samples",
    "records": "records",
    "images": "images",
    "text_tokens": "text tokens",
    "supervised_tokens": "supervised",
    "bytes": "size",
}
"""Statistic -> heading of its column."""


def print_overview(found: Mapping[str, Any]) -> None:
    """Print what `overview` found: a summary, a table, and integrity."""
    out = _console()
    tokenizer, image = found["tokenizer"], found["image"]
    out.print(Text(escape_controls(found["name"]), style="bold"))
    lines = {
        "shards": f"{found['num_shards']}, {format_size(found['shard_bytes'])} in all",
        "template": found["template"],
        "tokenizer": f"{tokenizer['num_ids']} ids, fingerprint {tokenizer['fingerprint'][:16]}",
        "images": ", ".join(f"{name} {value}" for name, value in (image or {}).items()),
        "limits": f"{found['max_tokens']} tokens at {found['positions_per_image']} per image",
    }
    for name, value in lines.items():
        out.print(Text(escape_controls(f"  {name:<10} {value}")))
    if found["groups"] is not None:
        out.print(_statistics_table(found["groups"], found["totals"]))
    for defect in found["defects"]:
        out.print(Text(f"DEFECT {escape_controls(defect)}", style="bold red"))
    if not found["defects"]:
        out.print(
            Text("intact: all files are there with the right sizes", style="green"),
            Text("(contents: vchat-shards verify)", style="dim"),
        )


def _statistics_table(groups: list[dict[str, Any]], totals: dict[str, Any] | None) -> Table:
    table = Table(box=None, pad_edge=True, header_style="bold", show_footer=totals is not None)
    table.add_column("source", footer="all", no_wrap=True)
    table.add_column("split", no_wrap=True)
    for name, heading in COLUMNS.items():
        footer = "" if totals is None else _number(name, totals[name])
        table.add_column(heading, justify="right", no_wrap=True, footer=footer)
    for group in groups:
        numbers = [_number(name, group[name]) for name in COLUMNS]
        table.add_row(cell(group["source"]), cell(group["split"]), *numbers)
    return table


def _number(name: str, value: int) -> str:
    return format_size(value) if name == "bytes" else f"{value:,}"


def format_size(size_bytes: int) -> str:
    """Return a size for people: `1.5 MB`, in powers of 1000."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes} B"


def print_sample(shards: ShardSet, row: Mapping[str, Any]) -> None:
    """Print one dialogue as the model reads it; supervised text is green, or between {+ and +}."""
    out = _console()
    sample = shards.read_sample(row)
    out.print(Text(escape_controls(sample.key), style="bold"))
    for line in _facts(shards, row, sample):
        out.print(Text(f"  {escape_controls(line)}", style="dim"), soft_wrap=True)
    mark = ("", "") if out.color_system else ("{+", "+}")
    body = Text()
    for span in token_spans(sample, shards.tokenizer()):
        if span.image is not None:
            body.append(f"<image: {escape_controls(sample.images[span.image].key)}>", style="cyan")
        elif span.supervised:
            body.append(mark[0] + escape_controls(span.text) + mark[1], style="green")
        else:
            body.append(escape_controls(span.text))
    out.print()
    out.print(body, soft_wrap=True)


def _facts(shards: ShardSet, row: Mapping[str, Any], sample: Sample) -> list[str]:
    """Return lines that say where a sample is stored, where it comes from, and its images."""
    supervised = row["supervised_tokens"]
    lines = [
        f"{sample.source}, {sample.split}, {shards.shard_name(row)} {row['stem']}",
        f"{row['text_tokens']} text tokens, {supervised} supervised, {len(sample.images)} images",
    ]
    lines += [
        f"record {origin.key}: id {origin.record_id} of {origin.file}, rounds {origin.num_rounds}"
        for origin in sample.records
    ]
    lines += [f"licence {name}" for name in dict.fromkeys(r.licence for r in sample.records)]
    for number, image in enumerate(sample.images, start=1):
        stored, original = ("x".join(map(str, s)) for s in (image.size, image.original_size))
        size_kb = f"{len(image.data) / 1000:.1f} kB {image.extension}"
        lines.append(f"image {number}: {image.key}, {stored} (from {original}), {size_kb}")
    return lines


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_COLUMNS)
