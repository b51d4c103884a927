"""A checkpoint folder: complete or absent. Opening one needs neither torch nor DeepSpeed.

    OUT/step-000100/model/           VisualChat.save_pretrained; of the frozen weights, a reference
                    tokenizer/       as used
                    run.toml         the configuration, overrides applied
                    shards.json      template, tokenizer fingerprint, digests of the shard set
                    state.json       step, position in the data, versions, world size
                    deepspeed/       optimizer state and trained weights, one file per rank
                    rng/             random state of every rank
                    files.json       name -> size and SHA-256 of each file above; written last
    OUT/frozen/SHA256.safetensors    weights that the run does not train, see `frozen.py`
    OUT/latest                       name of the newest one
    OUT/finished                     there once the run has made its last step

All ranks write into `OUT/.step-000100.part` and say beside it what they wrote; the rename to its
name is the last thing that happens, so a folder with the name `step-...` is whole.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vchat.base.files import inherit_permissions, sha256_file, write_atomically

if TYPE_CHECKING:
    from vchat.shards.text.template import Template
    from vchat.shards.text.tokenizer import TextTokenizer

FORMAT_VERSION = 1
EXPORT_FACTS = "visual_chat.json"
"""What an exported model has in place of `state.json` and `shards.json`, see `export.py`."""

_STEP = re.compile(r"step-(\d{6,})")


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
        """What `VisualChat.from_pretrained` reads."""
        return self.folder if self.is_exported else self.folder / "model"

    @property
    def is_exported(self) -> bool:
        """Whether it is an exported model: all in one folder, nothing to go on training from."""
        return (self.folder / EXPORT_FACTS).is_file()

    @property
    def image_size(self) -> int:
        """Side in pixels of the square the tower takes."""
        return int(self.shards["image_size"])

    @property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer the model was trained with; raises ValueError if it changed since."""
        from vchat.shards.text.tokenizer import TextTokenizer

        place = self.folder if self.is_exported else self.folder / "tokenizer"
        tokenizer = TextTokenizer.load(place)
        wanted = self.shards["tokenizer_fingerprint"]
        if tokenizer.fingerprint != wanted:
            raise ValueError(
                f"{place}: fingerprint {tokenizer.fingerprint}, "
                f"but the model was trained with {wanted}"
            )
        return tokenizer

    @property
    def template(self) -> Template:
        """The template that wrote the dialogues the model was trained on."""
        from vchat.shards.text.named_template import make_template

        template = self.shards["template"]
        return make_template(template["name"], system=template["system"], tokenizer=self.tokenizer)


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a step folder, the newest complete one of a run's OUT folder, or an exported model.

    Only presence and sizes of the files are checked; `verify` reads them.

    Raises:
        ValueError: if there is none, or a file of it is missing or has another size.
    """
    if (path / EXPORT_FACTS).is_file():
        facts = _check_version(path, _read_json(path / EXPORT_FACTS))
        return Checkpoint(folder=path, state=facts, shards=facts["shards"], files={})
    folder = path if (path / "files.json").is_file() else find_newest(path)
    if folder is None:
        raise ValueError(f"{path}: neither a complete checkpoint nor a run that has one")
    problem = find_defect(folder)
    if problem:
        raise ValueError(f"{folder}: {problem}")
    state = _check_version(folder, _read_json(folder / "state.json"))
    return Checkpoint(
        folder=folder,
        state=state,
        shards=_read_json(folder / "shards.json"),
        files=_read_json(folder / "files.json"),
    )


def _check_version(folder: Path, state: dict[str, Any]) -> dict[str, Any]:
    found = state.get("format_version")
    if found != FORMAT_VERSION:
        raise ValueError(
            f"{folder}: checkpoint format {found}, this program reads {FORMAT_VERSION}"
        )
    return state


def find_newest(out: Path) -> Path | None:
    """The complete step folder of the highest step in `out`, or None. `latest` is not trusted."""
    for step in sorted(step_folders(out), reverse=True):
        folder = out / step_name(step)
        if find_defect(folder) is None:
            return folder
    return None


def step_folders(out: Path) -> list[int]:
    """Steps that have a folder in `out`, whatever its state, ascending."""
    if not out.is_dir():
        return []
    steps = (parse_step(entry.name) for entry in out.iterdir() if entry.is_dir())
    return sorted(step for step in steps if step is not None)


def parse_step(name: str) -> int | None:
    """The step that a folder's name says, or None."""
    match = _STEP.fullmatch(name.rstrip("/"))
    return int(match[1]) if match else None


def step_name(step: int) -> str:
    """`step-000100`."""
    return f"step-{step:06d}"


def find_defect(folder: Path) -> str | None:
    """Say what is missing from a step folder, or None. Sizes are compared, contents not read."""
    listing = folder / "files.json"
    if not listing.is_file():
        return "files.json is missing: the checkpoint was not finished"
    for name, facts in _read_json(listing).items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != facts["size_bytes"]:
            return f"{name} has {file.stat().st_size} bytes, want {facts['size_bytes']}"
    return None


def verify_files(checkpoint: Checkpoint, names: Iterable[str]) -> None:
    """Read the named files. Raises ValueError naming the first whose SHA-256 is another."""
    for name in names:
        found = sha256_file(checkpoint.folder / name)
        wanted = checkpoint.files[name]["sha256"]
        if found != wanted:
            raise ValueError(f"{checkpoint.folder / name}: SHA-256 {found}, want {wanted}")


def create_part_folder(out: Path, *, step: int) -> Path:
    """Make the empty folder that all ranks write into. One process calls it."""
    part, written = part_folder(out, step=step), _reports_folder(out, step=step)
    for folder in (part, written):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    (part / "rng").mkdir()
    return part


def part_folder(out: Path, *, step: int) -> Path:
    """Where the checkpoint of a step lies until it is whole."""
    return out / f".{step_name(step)}.part"


def report_files(out: Path, names: Iterable[str], *, step: int, rank: int) -> None:
    """Tell rank 0 that these files of the checkpoint are whole, and what is in them."""
    facts = file_facts(part_folder(out, step=step), names)
    write_json(_reports_folder(out, step=step) / f"rank-{rank:05d}.json", facts)


def finish_after_all_ranks(
    out: Path,
    *,
    step: int,
    num_ranks: int,
    keep_last: int,
    outside_facts: Mapping[str, dict[str, Any]],
    cancel: threading.Event,
) -> Path | None:
    """Wait for all other ranks, then `finish`; all files they do not speak of are rank 0's.

    Args:
        outside_facts: facts of files outside the folder that it refers to.

    Returns:
        The complete folder, or None if `given_up` was set before: another rank may be gone.
    """
    part, written = part_folder(out, step=step), _reports_folder(out, step=step)
    files = [written / f"rank-{rank:05d}.json" for rank in range(1, num_ranks)]
    facts = dict(outside_facts)
    for file in files:
        while not file.is_file():
            if cancel.wait(0.02):
                return None
        facts |= _read_json(file)
    facts |= file_facts(part, [name for name in file_names(part) if name not in facts])
    finish_checkpoint(out, step=step, facts=facts, keep_last=keep_last)
    return out / step_name(step)


def _reports_folder(out: Path, *, step: int) -> Path:
    """Where the ranks say what they have written, one file each."""
    return out / f".{step_name(step)}.written"


def file_facts(part: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of the named files, read back once they are safe on disk."""
    facts = {}
    for name in names:
        with (part / name).open("rb") as file:
            os.fsync(file.fileno())
        facts[name] = {
            "size_bytes": (part / name).stat().st_size,
            "sha256": sha256_file(part / name),
        }
    return facts


def file_names(folder: Path) -> list[str]:
    """Relative names of all files below, sorted, with forward slashes."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def finish_checkpoint(
    out: Path, *, step: int, facts: Mapping[str, dict[str, Any]], keep_last: int
) -> None:
    """Give the written folder its name, point `latest` at it, remove old ones. One process."""
    part, final = part_folder(out, step=step), out / step_name(step)
    write_json(part / "files.json", dict(sorted(facts.items())))
    for name in file_names(part):
        inherit_permissions(part / name)
    rename_into_place(part, final)
    shutil.rmtree(_reports_folder(out, step=step))
    with write_atomically(out / "latest") as file:
        file.write(f"{final.name}\n".encode())
    if keep_last:
        for old in [s for s in step_folders(out) if s <= step][:-keep_last]:
            _remove(out / step_name(old))


def rename_into_place(part: Path, final: Path) -> Path:
    """Give a whole folder its name, in place of an incomplete one that has it."""
    if final.exists():
        _remove(final)
    part.rename(final)
    return final


def write_json(path: Path, value: object) -> None:
    """Write sorted, indented JSON, whole."""
    with write_atomically(path) as file:
        file.write((json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def _remove(folder: Path) -> None:
    """Delete a step folder; it loses its name first, so that half of one is never found."""
    aside = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    shutil.rmtree(aside)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as err:
        raise ValueError(f"{path}: not JSON: {err}") from err
    if not isinstance(value, dict):
        raise ValueError(f"{path}: want a JSON object, found {type(value).__name__}")
    return value
