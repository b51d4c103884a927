"""`vchat-train import-tower`: the vision tower of a published model as a folder of its own."""

from __future__ import annotations

from pathlib import Path

import click

from vchat.base.files import inherit_permissions
from vchat.base.terminal_text import echo


@click.command("import-tower")
@click.argument("kind", type=click.Choice(["qwen-vl"]))
@click.argument("path", metavar="PATH", type=click.Path(path_type=Path))
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="New folder, which `[model] tower` of RUN.toml can name.",
)
def command(kind: str, path: Path, out: Path) -> None:
    """Take the vision tower out of a checkpoint folder: PATH with safetensors or .bin files.

    qwen-vl: the ViT-bigG of Qwen-VL or Qwen-VL-Chat at 448 pixels with its resampler to 256
    features. A folder that holds this tower alone will do. Every key must be known. The import
    follows the public code and was not checked against real weights.
    """
    if not path.exists():
        raise click.UsageError(f"{path}: no such folder")
    if out.exists():
        raise click.UsageError(f"{out}: already there; want a new folder")
    from vchat.model.towers.import_qwen_vl import read_qwen_vl_tower, save_tower

    imported = read_qwen_vl_tower(path)
    save_tower(imported.tower, out)
    for file in out.iterdir():
        inherit_permissions(file)
    config = imported.tower.config
    echo(
        f"{out}: {imported.num_loaded} weights taken, {imported.num_of_language_model} of the "
        f"language model left; {config.image_size} pixels to {config.num_queries} features of "
        f"width {config.hidden_size}"
    )
