"""A checkpoint folder: complete or absent. Opening one imports neither torch nor DeepSpeed.

    OUT/step-000100/model/           VisualChat.save_pretrained; of the frozen weights, a reference
                    tokenizer/       as used
                    run.toml         the configuration, overrides applied
                    shards.json      template, tokenizer fingerprint, digests of the shard set
                    exclude.json     the keys that each epoch leaves out, see `exclude_lists.py`
                    state.json       step, position in the data, versions, world size
                    deepspeed/       optimizer state and trained weights, one file per rank
                    rng/             random state of every rank
                    files.json       name -> size and SHA-256 of each file above; written last
    OUT/frozen/SHA256.safetensors    weights that the run does not train, see `frozen_weights.py`
    OUT/exclude.json                 as in the step folders, written when the run starts
    OUT/latest                       name of the newest one
    OUT/finished                     there once the run has made its last step

How the ranks write one together, `step_folder.py` says: a folder with the name `step-...` is whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vchat.base.files import sha256_file
from vchat.train.checkpoints.facts import SHARDS, TEMPLATE, check_facts
from vchat.train.checkpoints.step_folder import find_defect, find_newest, read_json

if TYPE_CHECKING:
    from vchat.shards.text.template import Template
    from vchat.shards.text.tokenizer import TextTokenizer

FORMAT_VERSION = 1
EXPORT_FACTS = "visual_chat.json"
"""File of an exported model that replaces `state.json` and `shards.json`, see `export.py`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One complete checkpoint, opened."""

    folder: Path
    state: dict[str, Any]
    """Contents of `state.json`."""

    shards: dict[str, Any]
    """Contents of `shards.json`."""

    files: dict[str, dict[str, Any]]
    """Contents of `files.json`: relative name -> `{"size_bytes", "sha256"}`."""

    @property
    def step(self) -> int:
        """Optimizer steps behind this checkpoint."""
        return int(self.state["step"])

    @property
    def model_folder(self) -> Path:
        """Folder that `VisualChat.from_pretrained` reads."""
        return self.folder if self.is_exported else self.folder / "model"

    @property
    def is_exported(self) -> bool:
        """Whether it is an exported model: all in one folder, nothing to go on training from."""
        return (self.folder / EXPORT_FACTS).is_file()

    @property
    def image_size(self) -> int:
        """Side in pixels of the square that the tower reads."""
        return int(self.shards["image_size"])

    @property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer that the model was trained with; raises ValueError if its files changed."""
        from vchat.shards.text.tokenizer import TextTokenizer

        folder = self.folder if self.is_exported else self.folder / "tokenizer"
        tokenizer = TextTokenizer.load(folder)
        wanted = self.shards["tokenizer_fingerprint"]
        if tokenizer.fingerprint != wanted:
            raise ValueError(
                f"{folder}: fingerprint {tokenizer.fingerprint}, "
                f"but the model was trained with {wanted}"
            )
        return tokenizer

    @property
    def template(self) -> Template:
        """The template of the dialogues that the model was trained on."""
        from vchat.shards.text.named_template import make_template

        template = self.shards["template"]
        return make_template(template["name"], system=template["system"], tokenizer=self.tokenizer)


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a step folder, the newest complete one of a run's OUT folder, or an exported model.

    Only existence and sizes of the files are checked; `verify_files` reads them.

    Raises:
        ValueError: if there is none, or a file of it is missing or has another size.
    """
    if (path / EXPORT_FACTS).is_file():
        facts = _check_version(path, read_json(path / EXPORT_FACTS))
        check_facts(path / EXPORT_FACTS, facts, {"step": int, "shards": dict})
        _check_shards(path / EXPORT_FACTS, facts["shards"])
        return Checkpoint(folder=path, state=facts, shards=facts["shards"], files={})
    folder = path if (path / "files.json").is_file() else find_newest(path)
    if folder is None:
        raise ValueError(f"{path}: neither a complete checkpoint nor a run that has one")
    problem = find_defect(folder)
    if problem:
        raise ValueError(f"{folder}: {problem}")
    state = _check_version(folder, read_json(folder / "state.json"))
    shards = read_json(folder / "shards.json")
    check_facts(folder / "state.json", state, {"step": int})
    _check_shards(folder / "shards.json", shards)
    return Checkpoint(
        folder=folder,
        state=state,
        shards=shards,
        files=read_json(folder / "files.json"),
    )


def _check_version(folder: Path, state: dict[str, Any]) -> dict[str, Any]:
    found = state.get("format_version")
    if found != FORMAT_VERSION:
        raise ValueError(
            f"{folder}: checkpoint format {found}, this program reads {FORMAT_VERSION}"
        )
    return state


def _check_shards(path: Path, shards: dict[str, Any]) -> None:
    check_facts(path, shards, SHARDS)
    check_facts(path, shards["template"], TEMPLATE)


def verify_files(checkpoint: Checkpoint, names: Iterable[str]) -> None:
    """Read the named files. Raises ValueError naming the first whose SHA-256 is another."""
    for name in names:
        found = sha256_file(checkpoint.folder / name)
        wanted = checkpoint.files[name]["sha256"]
        if found != wanted:
            raise ValueError(f"{checkpoint.folder / name}: SHA-256 {found}, want {wanted}")
