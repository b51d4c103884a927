"""`vchat-train import-checkpoint`: a model that the published code trained, as one of ours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vchat.base.terminal_text import echo

if TYPE_CHECKING:
    from vchat.model.published.weights import Lora

WEIGHTS = "pytorch_model.bin"
_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command("import-checkpoint")
@click.argument("kind", type=click.Choice(["dsvl"]))
@click.argument("path", metavar="PATH", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--decoder", required=True, type=_FOLDER, help="The language model that training started from."
)
@click.option(
    "--tower", required=True, type=_FOLDER, help="The vision tower that training started from."
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder of the new checkpoint."
)
@click.option(
    "--attention",
    type=click.Choice(["mmca_published", "causal"]),
    default="mmca_published",
    show_default=True,
    help="causal if it was trained without --enable_mmca_attention.",
)
@click.option(
    "--lora",
    type=click.Choice(["auto", "fused", "apart"]),
    default="auto",
    show_default=True,
    help="Whether LoRA is already added to the saved weights (fused) or not (apart); auto compares"
    " them with those of --decoder and --tower.",
)
def command(
    kind: str, path: Path, decoder: Path, tower: Path, out: Path, attention: str, lora: Lora
) -> None:
    """Turn what the published DeepSpeed-VisualChat code saved into a checkpoint of ours.

    PATH is a folder epoch-N with pytorch_model.bin, or that file: LoRA fused or not, saved under
    any ZeRO stage. Every key must be known. The import follows the public code and was not checked
    against real weights.
    """
    if out.exists():
        raise click.UsageError(f"{out}: already there; want a new folder")
    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file():
        raise click.UsageError(f"{path}: no {WEIGHTS} there")
    import transformers

    from vchat.train.convert.import_checkpoint import import_model, save_imported
    from vchat.train.convert.published_tokenizer import extend_tokenizer

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    tokenizer = extend_tokenizer(decoder)
    model, summary = import_model(
        file, decoder=decoder, tower=tower, tokenizer=tokenizer, attention=attention, lora=lora
    )
    folder = save_imported(model, tokenizer, out)
    echo(
        f"{folder}: {summary.num_loaded} weights taken, {summary.num_not_read} not read by"
        f" anything; LoRA on {summary.num_lora} layers ({summary.lora})"
    )
