"""`vchat-prep sample-data`: flags and what it prints; the work is in `sample_data.write_world`."""

from __future__ import annotations

from pathlib import Path

import click

from vchat.base.terminal_text import echo


@click.command("sample-data")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder; created if it does not exist.",
)
@click.option(
    "--images", type=int, default=6000, show_default=True, help="Approximate number of pictures."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Pictures depend on it.")
def command(out: Path, images: int, seed: int) -> None:
    """Draw a small world in the formats of all data sets."""
    from vchat.prep.sample_data.write_world import World, write_world

    world = World(images=images, seed=seed)
    if not write_world(out, world):
        echo(f"{out} holds this world already, complete")
    echo(
        f"{2 * world.num_photograph_pairs} photographs in {world.num_photograph_pairs} pairs,"
        f" {world.num_books} book covers, and the other data sets in {out}"
    )
    echo(f"evaluation: {out / 'eval.json'}")
    echo(f"tokenizer: {out / 'tokenizer'}")
