"""All sources of a build -> staged records, several at a time, each in a process of its own.

A source is converted alone, from its files to its staged file, so neither the number of workers nor
who ends first changes a byte. With one worker, or one source, it happens in this process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from vchat.base.progress import progress
from vchat.prep.build.pool import counted, run_calls
from vchat.prep.convert.chosen_sources import ChosenSource, chosen_source
from vchat.prep.convert.convert import Staged, convert
from vchat.prep.convert.recipe import Recipe, SourceChoice
from vchat.prep.raw.image_files import ImageFiles


def convert_all(
    sources: Sequence[ChosenSource], *, recipe: Recipe, work: Path
) -> tuple[Staged, ...]:
    """Convert every source, or find it converted in `work`; in the order given.

    Raises:
        ValueError, OSError: as `convert.convert`; the first error stops the others.
    """
    if recipe.workers == 1 or len(sources) < 2:
        return tuple(_here(one, recipe=recipe, work=work) for one in sources)
    counts = work / "progress"
    calls = [partial(_elsewhere, one.choice, recipe, work, counts) for one in sources]
    with progress(f"convert {len(sources)} data sets", unit="rows") as advance:
        return tuple(run_calls(calls, workers=recipe.workers, counts=counts, on_progress=advance))


def _here(one: ChosenSource, *, recipe: Recipe, work: Path) -> Staged:
    with progress(f"convert {one.source.name}", unit="rows") as advance:
        return _converted(one, recipe=recipe, work=work, on_row=lambda: advance(1))


def _elsewhere(choice: SourceChoice, recipe: Recipe, work: Path, counts: Path) -> Staged:
    """Convert one source in a process of the pool."""
    with counted(counts / choice.name) as count:
        one = chosen_source(choice, recipe=recipe)
        return _converted(one, recipe=recipe, work=work, on_row=count)


def _converted(
    one: ChosenSource, *, recipe: Recipe, work: Path, on_row: Callable[[], None]
) -> Staged:
    return convert(
        one.source,
        data=one.data,
        images=ImageFiles(one.roots, folders=one.folders),
        work=work,
        max_images=recipe.max_images,
        on_row=on_row,
    )
