"""`vchat-train export`: write a checkpoint as a Hugging Face folder, print its size."""

from __future__ import annotations

from pathlib import Path

import click

from vchat.base.cli import WrongUse
from vchat.base.imports import pause_collection
from vchat.base.terminal_text import echo
from vchat.train.chat.commands.options import CHECKPOINT
from vchat.train.checkpoints.checkpoint import open_checkpoint


@click.command("export")
@CHECKPOINT
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="A folder that does not exist."
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    help="Of the weights; by default as saved.",
)
def export(checkpoint: Path, out: Path, precision: str | None) -> None:
    """Write a checkpoint as a plain Hugging Face folder, with LoRA merged.

    It loads with VisualChat.from_pretrained (package vchat.model) where neither vchat.train nor
    DeepSpeed is installed, and serves vchat-chat, eval and model.start_from like a checkpoint.
    """
    if out.exists():
        raise WrongUse(f"{out}: exists already, want a new folder")
    opened = open_checkpoint(checkpoint)
    with pause_collection():
        from vchat.train.convert.export import export_checkpoint
    from vchat.train.engine.processes import prepare_environment

    prepare_environment()
    export_checkpoint(opened, out, precision=precision)
    size = sum(file.stat().st_size for file in out.iterdir())
    echo(f"{out}: {size / 1e6:,.1f} MB, of step {opened.step}")
