"""Export a checkpoint as a plain Hugging Face folder.

In: a checkpoint of any ZeRO stage. Out, in one folder:

    config.json, model*.safetensors    `VisualChat.from_pretrained` reads them; LoRA is merged
    generation_config.json             its end tokens stop `generate`
    tokenizer.json, ...                `PreTrainedTokenizerFast.from_pretrained` reads them
    preprocessor_config.json           size, mean and deviation of images, as CLIP processors read
                                       them; and `tiling`, if the model's images are cut into tiles
    visual_chat.json                   template, fingerprint, digests: what `vchat-chat` reads
    README.md                          how to load it

Loading needs the package `vchat.model`, transformers and torch; neither `vchat.train` nor
DeepSpeed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
import transformers

from vchat.base.files import inherit_permissions
from vchat.model.visual_chat import VisualChat
from vchat.train.chat.chat_model import find_end_ids
from vchat.train.checkpoints.checkpoint import EXPORT_FACTS, Checkpoint, verify_files
from vchat.train.checkpoints.step_folder import write_json
from vchat.train.engine.starting_model import load_model

TORCH_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
FROM_CHECKPOINT = ("model/", "../frozen/", "tokenizer/", "shards.json")
"""The files of a checkpoint that are read, after a check of their digests."""

README = """# A VisualChat model

Exported from step {step} of a `vchat-train` run.

```python
from transformers import PreTrainedTokenizerFast
from vchat.model import VisualChat

model = VisualChat.from_pretrained("{name}")
tokenizer = PreTrainedTokenizerFast.from_pretrained("{name}")
```

`model.generate(input_ids, pixel_values)` takes the id {slot} (`<image>`) {positions} times for each
image, and uint8 pixels [images, 3, {side}, {side}] in the order of the ids{tiles}.
`visual_chat.json` has the prompt template that the model was trained with;
`vchat-chat --checkpoint {name}` applies it.
"""

TILES = """. A larger image takes
several inputs: a small view of the whole, then its tiles, by `tiling` of
`preprocessor_config.json`. It is first resized to the shorter side `stored_side`;
`ImageGrid.num_inputs` of `vchat.shards.pixels.grid` gives the number of inputs, and
`decode_tiles_into` of `vchat.shards.pixels.decode` cuts them"""


def export_checkpoint(checkpoint: Checkpoint, out: Path, *, precision: str | None) -> None:
    """Write the folder `out`; it appears only when it is complete.

    Args:
        checkpoint: What is exported.
        out: A folder that does not exist.
        precision: A key of `TORCH_NAMES`; None keeps that of the saved weights.

    Raises:
        ValueError: A file of the checkpoint changed since it was saved.
    """
    verify_files(
        checkpoint, [name for name in checkpoint.files if name.startswith(FROM_CHECKPOINT)]
    )
    saved = json.loads((checkpoint.model_folder / "config.json").read_text(encoding="utf-8"))
    dtype = getattr(torch, TORCH_NAMES[precision] if precision else saved["dtype"])
    transformers.utils.logging.disable_progress_bar()
    model = load_model(checkpoint.folder)
    model.merge()
    model = model.to(dtype)
    aside = out.with_name(f".{out.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    tokenizer, template = checkpoint.tokenizer, checkpoint.template
    model.generation_config.eos_token_id = sorted(find_end_ids(model, tokenizer, template))
    model.save_pretrained(aside)
    tokenizer.save(aside)
    stored_side = checkpoint.shards.get("stored_image_size")
    write_json(
        aside / "preprocessor_config.json", preprocessor_config(model, stored_side=stored_side)
    )
    write_json(aside / EXPORT_FACTS, export_facts(checkpoint))
    readme = _readme(checkpoint, model, name=out.name)
    (aside / "README.md").write_text(readme, encoding="utf-8")
    for file in aside.iterdir():
        inherit_permissions(file)
    aside.rename(out)


def _readme(checkpoint: Checkpoint, model: VisualChat, *, name: str) -> str:
    return README.format(
        step=checkpoint.step,
        name=name,
        positions=model.config.positions_per_image,
        slot=checkpoint.tokenizer.image_id,
        side=model.config.image_size,
        tiles=TILES if model.config.max_tiles else "",
    )


def preprocessor_config(model: VisualChat, *, stored_side: int | None) -> dict[str, object]:
    """Return the settings of Hugging Face's CLIP image processor for images of any size.

    That processor cuts no tiles: for a model with tiles it makes the small view, and ignores
    `tiling`.

    Args:
        model: The exported model.
        stored_side: The shorter side that the shards' larger images were resized to, if any.
    """
    side, max_tiles = model.config.image_size, model.config.max_tiles
    tiling = {"tiling": {"max_tiles": max_tiles, "side": side, "stored_side": stored_side}}
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": list(model.config.image_mean),
        "image_std": list(model.config.image_std),
        "do_convert_rgb": True,
        **(tiling if max_tiles else {}),
    }


def export_facts(checkpoint: Checkpoint) -> dict[str, object]:
    """Return what chat and evaluation need beside model and tokenizer, and the model's origin."""
    return {
        "format_version": checkpoint.state["format_version"],
        "step": checkpoint.step,
        "shards": checkpoint.shards,
        "versions": checkpoint.state.get("versions", {}),
    }
