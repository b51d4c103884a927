"""Convert all sources of a build, several at a time, each in a process of its own.

Each source is converted alone, from its files to its staged file, so neither the number of workers
nor who ends first changes a byte. With one worker, or one source, it happens in this process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from vchat.base.processes import open_counter, run_calls
from vchat.base.progress import show_progress
from vchat.prep.convert.convert import ImageLimits, StagedSource, convert_source
from vchat.prep.convert.recipe import Recipe, SourceChoice
from vchat.prep.convert.resolve import ResolvedSource, resolve_source
from vchat.prep.raw.image_files import ImageFiles


def convert_all(
    sources: Sequence[ResolvedSource], *, recipe: Recipe, work: Path
) -> tuple[StagedSource, ...]:
    """Convert every source, or find it converted in `work`; return them in the order given.

    Raises:
        ValueError, OSError: As `convert_source`; the first error stops the others.
    """
    if recipe.workers == 1 or len(sources) < 2:
        return tuple(_convert_here(one, recipe=recipe, work=work) for one in sources)
    counts = work / "progress"
    calls = [partial(_convert_in_worker, one.choice, recipe, work, counts) for one in sources]
    with show_progress(f"convert {len(sources)} data sets", unit="rows") as advance:
        done = run_calls(
            calls,
            workers=recipe.workers,
            counts=counts,
            on_progress=advance,
            preload=[__name__],
        )
    return tuple(done)


def _convert_here(one: ResolvedSource, *, recipe: Recipe, work: Path) -> StagedSource:
    with show_progress(f"convert {one.source.name}", unit="rows") as advance:
        return _convert(one, recipe=recipe, work=work, on_entry=lambda: advance(1))


def _convert_in_worker(
    choice: SourceChoice, recipe: Recipe, work: Path, counts: Path
) -> StagedSource:
    """Convert one source in a process of the pool."""
    with open_counter(counts / choice.name) as count:
        one = resolve_source(choice, recipe=recipe)
        return _convert(one, recipe=recipe, work=work, on_entry=count)


def _convert(
    one: ResolvedSource, *, recipe: Recipe, work: Path, on_entry: Callable[[], None]
) -> StagedSource:
    return convert_source(
        one.source,
        data=one.data,
        images=ImageFiles(one.roots, folders=one.folders, identity=recipe.identity),
        work=work,
        limits=ImageLimits(image_size=recipe.image.size, max_images=recipe.max_images),
        on_entry=on_entry,
    )
