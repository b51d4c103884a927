"""`vchat-train import-checkpoint`: a model that the published code trained, as one of ours.

In: the folder with its `pytorch_model.bin`, and the decoder and tower it was trained from. Out: a
checkpoint folder that `vchat-chat` and `model.start_from` read. Its options are set so that it
answers as the published chat does: that code's attention, its order of images, its two embedding
tables, a begin token on every round.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from vchat.model.published.weights import LoadSummary, Lora
    from vchat.model.visual_chat import VisualChat
    from vchat.shards.text.tokenizer import TextTokenizer

ADDED_TOKENS = ("### Image:", "<image>", "<PAD>")
"""What the published code adds to a tokenizer, in this order; the last only if it has no padding
token."""

WEIGHTS = "pytorch_model.bin"
STEP = 0
_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command("import-checkpoint")
@click.argument("kind", type=click.Choice(["dsvl"]))
@click.argument("path", metavar="PATH", type=click.Path(path_type=Path, exists=True))
@click.option("--decoder", required=True, type=_FOLDER, help="The language model it began with.")
@click.option("--tower", required=True, type=_FOLDER, help="The vision tower it began with.")
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
    help="Whether the saved weights contain the LoRA that is saved beside them; auto compares"
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

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    tokenizer = extend_tokenizer(decoder)
    model, account = import_model(
        file, decoder=decoder, tower=tower, tokenizer=tokenizer, attention=attention, lora=lora
    )
    folder = save_imported(model, tokenizer, out)
    click.echo(
        f"{folder}: {account.num_loaded} weights taken, {account.num_not_read} not read by"
        f" anything; LoRA on {account.num_lora} layers ({account.lora})"
    )


def extend_tokenizer(folder: Path) -> TextTokenizer:
    """Return the decoder's tokenizer with the tokens that the published code adds."""
    from tokenizers import AddedToken, Tokenizer

    from vchat.shards.text.tokenizer import TextTokenizer

    plain = TextTokenizer.load(folder)  # says in one line what is wrong with it
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens = ADDED_TOKENS if plain.pad_token is None else ADDED_TOKENS[:-1]
    new = [token for token in tokens if tokenizer.token_to_id(token) is None]
    tokenizer.add_special_tokens([AddedToken(one, special=True, normalized=False) for one in new])
    with tempfile.TemporaryDirectory() as place:
        for name in ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
            if (folder / name).is_file():
                shutil.copy(folder / name, place)
        tokenizer.save(str(Path(place) / "tokenizer.json"))
        return TextTokenizer.load(Path(place))


def import_model(
    file: Path,
    *,
    decoder: Path,
    tower: Path,
    tokenizer: TextTokenizer,
    attention: str,
    lora: Lora,
) -> tuple[VisualChat, LoadSummary]:
    """Return the model in the file's own precision, and what became of the file's keys.

    Raises:
        ValueError: a key of the file is unknown or missing, or of another shape; names file and
            key.
    """
    import torch

    from vchat.model.published.weights import find_projection, load_published
    from vchat.model.towers.weight_files import read_weights
    from vchat.model.visual_chat import VisualChat
    from vchat.train.engine.starting_model import channel_statistic, load_decoder, load_tower

    weights = dict(read_weights(file))
    try:
        model = VisualChat.from_parts(
            tower=load_tower(str(tower)),
            decoder=load_decoder(str(decoder), num_ids=None),
            image_token_id=tokenizer.image_id,
            num_ids=tokenizer.num_ids,
            attention=attention,
            projection=find_projection(weights),
            image_mean=channel_statistic(str(tower), "image_mean"),
            image_std=channel_statistic(str(tower), "image_std"),
        )
        model.config.image_order = "reversed"
        model.add_prompt_table()
        with torch.no_grad():
            account = load_published(model, weights, lora=lora)
    except ValueError as err:
        raise ValueError(f"{file}: {err}") from err
    return model.to(weights["lang_embed.weight"].dtype), account


def save_imported(model: VisualChat, tokenizer: TextTokenizer, out: Path) -> Path:
    """Write the checkpoint of step 0 and return its folder."""
    from vchat.shards.text.published_template import PublishedTemplate
    from vchat.train.checkpoints import checkpoint

    part = checkpoint.create_part_folder(out, step=STEP)
    model.save_pretrained(part / "model")
    tokenizer.save(part / "tokenizer")
    template = PublishedTemplate()
    shards = {
        "template": {"name": template.name, "system": template.system},
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "image_size": model.config.image_size,
    }
    checkpoint.write_json(part / "shards.json", shards)
    state = {"format_version": checkpoint.FORMAT_VERSION, "step": STEP}
    checkpoint.write_json(part / "state.json", state)
    facts = checkpoint.file_facts(part, checkpoint.file_names(part))
    checkpoint.finish_checkpoint(out, step=STEP, facts=facts, keep_last=0)
    return out / checkpoint.step_name(STEP)
