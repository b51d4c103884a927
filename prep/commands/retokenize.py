"""`vchat-prep retokenize`: flags and what it prints; the work is in `prep.pipeline.retokenize`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from vchat.prep.pipeline.retokenize import Retokenization


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
    from vchat.prep.pipeline.retokenize import retokenize
    from vchat.prep.raw.rejected import REASONS

    options = _read_options(shards, flags)
    manifest = retokenize(options, workers=workers)
    counts, totals = manifest["retokenized"], manifest["totals"]
    click.echo(
        f"{len(manifest['shards'])} shards, {totals['samples']} samples, {totals['rounds']} rounds,"
        f" {totals['images']} images, {totals['text_tokens']} text tokens in {options.out}"
    )
    click.echo(f"  {counts['split_dialogues']} dialogues were too long and are split")
    for source, reasons in counts["rejected"].items():
        for reason, count in reasons["counts"].items():
            click.echo(f"  {source}: {count} x record rejected, {reason} ({REASONS[reason]})")


def _read_options(shards: str, flags: dict[str, Any]) -> Retokenization:
    """Return the options of the flags; the manifest of the old set gives those that are absent."""
    from vchat.base.cli import WrongUse
    from vchat.prep.pipeline.retokenize import Retokenization
    from vchat.shards.format.open_shards import open_shards

    manifest = open_shards(shards).manifest
    if flags["template"] in (None, manifest["template"]["name"]) and flags["system"] is None:
        flags["system"] = manifest["template"]["system"]
    flags["template"] = flags["template"] or manifest["template"]["name"]
    for name in ("max_tokens", "positions_per_image"):
        flags[name] = manifest[name] if flags[name] is None else flags[name]
    try:
        return Retokenization(shards=shards, **flags)
    except ValueError as err:
        raise WrongUse(str(err)) from err
