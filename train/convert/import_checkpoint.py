"""A model that the published code trained, as a checkpoint of ours.

In: its `pytorch_model.bin`, and the decoder and tower it was trained from. Out: a checkpoint folder
that `vchat-chat` and `model.start_from` read. The model's options are set so that it answers as the
published chat does: that code's attention, its order of images, its two embedding tables, a begin
token on every round.
"""

from __future__ import annotations

from pathlib import Path

import torch

from vchat.model.published.weights import LoadSummary, Lora, find_projection, load_published
from vchat.model.towers.weight_files import read_weights
from vchat.model.visual_chat import VisualChat
from vchat.shards.text.published_template import PublishedTemplate
from vchat.shards.text.tokenizer import TextTokenizer
from vchat.train.checkpoints.checkpoint import FORMAT_VERSION
from vchat.train.checkpoints.step_folder import (
    create_part_folder,
    file_facts,
    file_names,
    finish_checkpoint,
    step_name,
    write_json,
)
from vchat.train.engine.starting_model import channel_statistic, load_decoder, load_tower

STEP = 0


def import_model(
    file: Path,
    *,
    decoder: Path,
    tower: Path,
    tokenizer: TextTokenizer,
    attention: str,
    lora: Lora,
) -> tuple[VisualChat, LoadSummary]:
    """Build the model in the precision of its file; also return what became of the file's keys.

    Raises:
        ValueError: a key of the file is unknown or missing, or its shape differs; names file and
            key.
    """
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
            summary = load_published(model, weights, lora=lora)
    except ValueError as err:
        raise ValueError(f"{file}: {err}") from err
    return model.to(weights["lang_embed.weight"].dtype), summary


def save_imported(model: VisualChat, tokenizer: TextTokenizer, out: Path) -> Path:
    """Write the checkpoint of step 0 and return its folder."""
    part = create_part_folder(out, step=STEP)
    model.save_pretrained(part / "model")
    tokenizer.save(part / "tokenizer")
    template = PublishedTemplate()
    shards = {
        "template": {"name": template.name, "system": template.system},
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "image_size": model.config.image_size,
    }
    write_json(part / "shards.json", shards)
    state = {"format_version": FORMAT_VERSION, "step": STEP}
    write_json(part / "state.json", state)
    facts = file_facts(part, file_names(part))
    finish_checkpoint(out, step=STEP, facts=facts, keep_last=0)
    return out / step_name(STEP)
