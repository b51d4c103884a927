"""Resolve the sources that a recipe names: each with its files' location."""

from __future__ import annotations

from dataclasses import dataclass

from vchat.base.cli import WrongUse
from vchat.prep.convert.recipe import Recipe, SourceChoice
from vchat.prep.raw.data_path import DataPath, data_path
from vchat.prep.sources.catalogue import find_source, source_names
from vchat.prep.sources.conversations.own import own_source
from vchat.prep.sources.source import Source, check_needs


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedSource:
    """A source of a build and where its files lie."""

    choice: SourceChoice
    source: Source
    data: DataPath
    roots: tuple[DataPath, ...]
    """Folders below which its images are looked up, in order."""

    @property
    def folders(self) -> tuple[str, ...]:
        """The image folders that the source names itself."""
        return tuple(path for need in self.source.needs for path in need.paths if path[-1] == "/")


def resolve_sources(recipe: Recipe) -> tuple[ResolvedSource, ...]:
    """Return the sources of a recipe; checks that the files that they read exist.

    Raises:
        WrongUse: An unknown name, or no name at all.
        ValueError: A file or folder is missing; names it and how to get it.
    """
    if not recipe.source:
        raise WrongUse("no data sets: name some with --datasets or as [[source]] in the recipe")
    resolved = tuple(resolve_source(choice, recipe=recipe) for choice in recipe.source)
    for one in resolved:
        check_needs(one.source, one.data)
    return resolved


def resolve_source(choice: SourceChoice, *, recipe: Recipe) -> ResolvedSource:
    """Return one source of a recipe, whether its files exist or not.

    Raises:
        WrongUse: An unknown name, a known one that is given to your own data, or splits that the
            data set does not have.
    """
    data = data_path(recipe.data, storage=recipe.storage)
    if choice.file is None:
        source = find_source(choice.name)
        if choice.splits is not None:
            source = source.with_splits(choice.splits)
        return ResolvedSource(choice=choice, source=source, data=data, roots=(data,))
    if choice.name in source_names():
        raise WrongUse(f"{choice.name}={choice.file}: the name belongs to a known data set")
    if choice.splits is not None:
        raise WrongUse(f"{choice.name}: splits = {list(choice.splits)}: your own file has none")
    file = data_path(choice.file, storage=recipe.storage)
    source = own_source(choice.name, file)
    roots = (file.parent, data)
    return ResolvedSource(choice=choice, source=source, data=file.parent, roots=roots)
