"""`vchat-prep retokenize`: flags and what it prints; the work is in `prep.pipeline.retokenize`."""

from __future__ import annotations

from typing import Any

import click

from vchat.base.terminal_text import echo


@click.command("retokenize")
@click.argument("shards")
@click.option("--tokenizer", metavar="DIR", required=True, help="Folder with tokenizer.json.")
@click.option("--out", metavar="DIR", required=True, help="Folder or URL of the new shards.")
@click.option("--work", metavar="DIR", help="Folder for work files, if --out is a URL.")
@click.option(
    "--template", metavar="NAME", help="visualchat, chat or visualchat-published (that of SHARDS)."
)
@click.option("--system", metavar="TEXT", help="System text (that of SHARDS in its template).")
@click.option("--max-tokens", type=int, help="The longest sample (that of SHARDS).")
@click.option("--positions-per-image", type=int, help="Positions of an image (that of SHARDS).")
@click.option("--workers", type=click.IntRange(min=1), default=1, help="Processes (1).")
def command(shards: str, workers: int, **flags: Any) -> None:
    """Make a shard set for another decoder, without the sources."""
    from vchat.prep.pipeline.retokenize import complete_request, retokenize
    from vchat.prep.raw.rejected import REASONS

    request = complete_request(shards, **flags)
    manifest = retokenize(request, workers=workers)
    counts, totals = manifest["retokenized"], manifest["totals"]
    echo(
        f"{len(manifest['shards'])} shards, {totals['samples']} samples, {totals['rounds']} rounds,"
        f" {totals['images']} images, {totals['text_tokens']} text tokens in {request.out}"
    )
    echo(f"  {counts['split_dialogues']} dialogues were too long and are split")
    for source, reasons in counts["rejected"].items():
        for reason, count in reasons["counts"].items():
            echo(f"  {source}: {count} x record rejected, {reason} ({REASONS[reason]})")
