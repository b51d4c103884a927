"""The recipe of a build: which data sets, how blended, how stored; a TOML file, flags, or both.

    seed = 7
    eval_fraction = 0.01
    [[source]]
    name = "llava"
    concatenate = 3
    [[source]]
    name = "mine"
    file = "photos/questions.jsonl"
    [image]
    size = 224

Everything that shapes the shards' bytes is here. Where data lies and how many workers run is here
too, but shapes no byte and stays out of the manifest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from vchat.base.cli import WrongUse
from vchat.base.toml_config import read_toml, to_table
from vchat.prep.convert.images import ImagePolicy
from vchat.prep.raw.identity import Identity
from vchat.shards.storage.config import StorageConfig

EngineName = Literal["processes", "ray"]

_SHAPES_NO_BYTE = (
    *("data", "out", "work", "storage", "tokenizer"),
    *("workers", "engine", "ray_address"),
)
"""Fields that say where things lie and what runs; the tokenizer is named by its fingerprint."""

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]?B?)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceChoice:
    """One data set of a build."""

    name: str
    """A name that `vchat-prep sources` lists, or a new one for your own data."""

    file: str | None = None
    """Your own data: path or URL of JSON, JSONL or Parquet. None for a data set known by name."""

    concatenate: int = 1
    """Join up to this many single-image records into one dialogue."""

    limit: int | None = None
    """Use at most this many records; the others are counted as `capped`."""

    splits: tuple[str, ...] | None = None
    """Use the records of these splits of the data set, evaluation data included if it is
    named; None for those that are meant for training."""

    def __post_init__(self) -> None:
        if self.concatenate < 1:
            raise ValueError(f"{self.name}: concatenate = {self.concatenate}: want at least 1")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"{self.name}: limit = {self.limit}: want at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateChoice:
    """How a dialogue becomes text."""

    name: str = "visualchat"
    """`visualchat`, `chat` for the chat template of the tokenizer, or `visualchat-published`."""

    system: str | None = None
    """The system text; None for the template's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that a build is given."""

    source: tuple[SourceChoice, ...] = ()
    """The data sets, in the order of the report."""

    data: str = "data"
    """Folder or URL that holds the data sets, laid out as `vchat-prep sources` says."""

    tokenizer: str | None = None
    """Folder with tokenizer.json."""

    out: str | None = None
    """Folder of the shards, or a URL: `s3://`, `gs://`, `az://`."""

    work: str | None = None
    """Local folder for the work files of a build whose `out` is a URL; None for one below
    `~/.cache/vchat/builds`."""

    seed: int = 0
    """Decides every draw: split, groups, order."""

    eval_fraction: float = 0.01
    """Share of photographs that are held out; all records that show one leave the training side."""

    identity: Identity | None = None
    """What tells whether two pictures are the same one where their data sets do not: `bytes` reads
    every picture once more, `path` does not recognise copies. None is `bytes` for local files and
    `path` for those in object storage. Pictures in Parquet are always compared by their bytes."""

    max_images: int = 8
    """The most images of one dialogue; records with more are rejected."""

    max_tokens: int = 4096
    """The longest sample in positions of the decoder, image positions included."""

    positions_per_image: int = 257
    """Positions of the decoder that an image takes; 257 for CLIP ViT-L/14 at 224 pixels."""

    shard_size: str = "256MB"
    """About how large a shard is."""

    workers: int = 1
    """Processes of this machine that convert data sets and write shards; never changes a byte."""

    engine: EngineName = "processes"
    """Where shards are written: in processes of this machine, or on a Ray cluster. Never changes a
    byte."""

    ray_address: str | None = None
    """The Ray cluster, such as `10.0.0.1:6379` or `auto`; None starts Ray on this machine."""

    image: ImagePolicy = field(default_factory=ImagePolicy)
    template: TemplateChoice = field(default_factory=TemplateChoice)
    storage: StorageConfig = field(default_factory=StorageConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.eval_fraction < 1:
            raise ValueError(f"eval_fraction = {self.eval_fraction}: want 0 or more, below 1")
        for name in ("max_images", "max_tokens", "positions_per_image", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: want at least 1")
        if self.ray_address is not None and self.engine != "ray":
            raise ValueError(f"ray_address = {self.ray_address!r} needs engine = 'ray'")
        names = [choice.name for choice in self.source]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"data set {sorted(repeated)[0]!r} is named twice")
        size_in_bytes(self.shard_size)


def size_in_bytes(text: str) -> int:
    """Return a size such as `256MB` in bytes.

    Raises:
        ValueError: The text is no size, or is below 1 byte.
    """
    match = _SIZE.fullmatch(text.strip())
    unit = match[2].upper() if match else ""
    size = int(float(match[1]) * _UNITS[unit if unit in _UNITS else unit + "B"]) if match else 0
    if size < 1:
        raise ValueError(f"size {text!r}: want a number and KB, MB or GB, such as 256MB")
    return size


def recipe_file(name: Path) -> Path:
    """Return the TOML file of a recipe, given as a file or as the name of one that we ship.

    Raises:
        WrongUse: It is neither; names those that we ship.
    """
    if name.is_file():
        return name
    folder = Path(__file__).parent / "recipes"
    if (folder / f"{name}.toml").is_file():
        return folder / f"{name}.toml"
    ours = ", ".join(sorted(path.stem for path in folder.glob("*.toml")))
    raise WrongUse(f"--recipe {name}: there is no such file; the recipes we ship are {ours}")


def read_recipe(file: Path | None, flags: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a file, changed by the flags.

    Args:
        file: A TOML file, or the name of one that we ship; None for a recipe of flags alone.
        flags: Values by field name; `image_size` for `image.size`, `datasets` for the sources,
            `concatenate` and `limit` for all of them; None where a flag was not given.

    Raises:
        WrongUse: An unknown key, a value out of range, or a flag without meaning here.
    """
    recipe = read_toml(Recipe, recipe_file(file)) if file is not None else Recipe()
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return _with_flags(recipe, given)
    except ValueError as err:
        raise WrongUse(str(err)) from err


def _with_flags(recipe: Recipe, given: dict[str, Any]) -> Recipe:
    sources = recipe.source
    if "datasets" in given:
        sources = _choose_sources(given.pop("datasets"), recipe_sources=sources)
    if "concatenate" in given:
        sources = _with_concatenate(sources, given.pop("concatenate"))
    if "limit" in given:
        limit = given.pop("limit")
        sources = tuple(replace(choice, limit=limit) for choice in sources)
    if "image_size" in given:
        given["image"] = replace(recipe.image, size=given.pop("image_size"))
    if "template" in given:
        given["template"] = replace(recipe.template, name=given.pop("template"))
    return replace(recipe, source=sources, **given)


def _choose_sources(
    datasets: str, *, recipe_sources: Sequence[SourceChoice]
) -> tuple[SourceChoice, ...]:
    """Return the sources that `a,b,mine=FILE` names; one that the recipe has keeps its settings."""
    by_name = {choice.name: choice for choice in recipe_sources}
    chosen = []
    for item in filter(None, (part.strip() for part in datasets.split(","))):
        name, equals, file = item.partition("=")
        if equals:
            chosen.append(SourceChoice(name=name, file=file))
        else:
            chosen.append(by_name.get(name, SourceChoice(name=name)))
    return tuple(chosen)


def _with_concatenate(sources: Sequence[SourceChoice], text: str) -> tuple[SourceChoice, ...]:
    """Return the sources with numbers such as `3,2,1`, one each, or one for all."""
    try:
        numbers = [int(part) for part in re.split(r"[,\s]+", text.strip())]
    except ValueError as err:
        raise ValueError(f"--concatenate {text}: want numbers such as 3,2,1") from err
    if len(numbers) == 1:
        numbers *= len(sources)
    if len(numbers) != len(sources):
        raise ValueError(
            f"--concatenate {text}: {len(numbers)} numbers for {len(sources)} data sets"
        )
    return tuple(
        replace(choice, concatenate=number) for choice, number in zip(sources, numbers, strict=True)
    )


def describe_recipe(recipe: Recipe) -> dict[str, Any]:
    """Return what a manifest says of a recipe: what shapes bytes, and no path of a machine."""
    plain: dict[str, Any] = to_table(recipe)
    for name in _SHAPES_NO_BYTE:
        plain.pop(name, None)
    for choice in plain["source"]:
        if "file" in choice:
            choice["file"] = Path(choice["file"]).name
    return plain
