"""A build: convert the sources, decide the plan, run its tasks, publish the shard set.

    OUT/.work/staged/   records of each source, and where the pictures of large JSON files lie
                        (Parquet), named by a digest of the inputs
    OUT/.work/          the plan, the job, and a result file per finished shard
    OUT/                shards, index, tokenizer, report; the manifest last

With a URL as OUT, `.work` lies in a local folder and the rest is uploaded as it is finished.

Each step leaves whole files only and skips what is there, so a build that was killed at any moment
goes on when the same command runs again, and gives the same bytes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vchat.prep.plan.blend import RecordColumns, blend, record_columns
from vchat.prep.convert.chosen_sources import ChosenSource, chosen_sources
from vchat.prep.convert.convert import Staged
from vchat.prep.convert.convert_all import convert_all
from vchat.prep.build.encoded_images import repeated_images, write_repeated
from vchat.prep.build.engines import get_ready, run_tasks
from vchat.prep.build.finish import (
    PUBLICATION,
    Built,
    Publication,
    already_complete,
    clear,
    finish,
    remove_half_written,
)
from vchat.prep.build.left_out import Examples, left_out_examples
from vchat.prep.build.libraries import libraries
from vchat.prep.build.output import Output, check_same, output_named
from vchat.prep.plan.plan import FILE as PLAN_FILE
from vchat.prep.plan.plan import BuildPlan, make_plan, read_plan, write_plan
from vchat.prep.convert.recipe import Recipe, for_manifest, size_in_bytes
from vchat.prep.convert.staged import plan_columns, write_record_file
from vchat.prep.build.task import Job, SourceFiles, read_result
from vchat.base.cli import WrongUse
from vchat.shards.text.named_template import template_named
from vchat.base.progress import progress
from vchat.shards.text.template import Template
from vchat.shards.text.tokenizer import TextTokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Everything decided, nothing heavy done."""

    recipe: Recipe
    sources: tuple[ChosenSource, ...]
    staged: tuple[Staged, ...]
    plan: BuildPlan
    left_out: dict[str, Examples]
    """Source -> examples of the records that the plan leaves out."""

    repeated: NDArray[np.uint64]
    """Hashes of the images that are used more than once."""

    tokenizer: TextTokenizer
    template: Template


def prepare(recipe: Recipe, *, work: Path) -> Prepared:
    """Convert the sources (or find them converted) and decide the plan.

    Raises:
        WrongUse, ValueError, OSError: one line each, saying what to do.
    """
    sources = chosen_sources(recipe)
    if recipe.tokenizer is None:
        raise WrongUse("no tokenizer: give its folder with --tokenizer")
    tokenizer = TextTokenizer.load(Path(recipe.tokenizer))
    template = template_named(
        recipe.template.name, system=recipe.template.system, tokenizer=tokenizer
    )
    staged = convert_all(sources, recipe=recipe, work=work / "staged")
    columns = [_columns(one, recipe) for one in staged]
    limits = [one.choice.limit for one in sources]
    blends = blend(
        columns,
        concatenate=[one.choice.concatenate for one in sources],
        limits=limits,
        max_images=recipe.max_images,
        eval_fraction=recipe.eval_fraction,
    )
    settings = {
        "inputs": {one.source: one.digest for one in staged},
        "recipe": for_manifest(recipe),
        "tokenizer": tokenizer.fingerprint,
        "template": template.digest,
        "libraries": libraries(),
    }
    plan = make_plan(
        columns, blends, shard_bytes=size_in_bytes(recipe.shard_size), settings=settings
    )
    return Prepared(
        recipe=recipe,
        sources=sources,
        staged=staged,
        plan=plan,
        left_out=left_out_examples(
            staged, columns, blends, limits=limits, max_images=recipe.max_images
        ),
        repeated=repeated_images(columns, blends),
        tokenizer=tokenizer,
        template=template,
    )


def _columns(staged: Staged, recipe: Recipe) -> RecordColumns:
    batches = plan_columns(staged.path)
    return record_columns(staged.source, batches, seed=recipe.seed, policy=recipe.image)


def build(recipe: Recipe) -> Built:
    """Make the whole shard set, or finish one that was interrupted.

    Raises:
        WrongUse, ValueError, OSError: one line each, saying what to do.
    """
    output = output_of(recipe)
    with clear_storage_errors(output), locked(output):
        is_complete = output.is_complete  # a store that refuses us does so before the long work
        if not is_complete:
            get_ready(engine=recipe.engine, workers=recipe.workers)
        prepared = prepare(recipe, work=output.work)
        if is_complete:
            return already_complete(output, prepared.plan)
        begin(prepared, output)
        _run(prepared, output)
        return finish(output)


def output_of(recipe: Recipe) -> Output:
    """Return where a recipe's shards go.

    Raises:
        WrongUse: if the recipe does not say, or names a place that cannot be written.
    """
    return output_named(recipe.out, work=recipe.work, storage=recipe.storage)


@contextlib.contextmanager
def locked(output: Output, *, shared: bool = False) -> Iterator[None]:
    """Keep other builds out of the work folder; the lock goes with the process.

    Args:
        shared: whether others that say so too may come in: tasks of one plan.

    Raises:
        ValueError: if another build is in it.
    """
    output.work.mkdir(parents=True, exist_ok=True)
    with (output.work / "lock").open("wb") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise ValueError(f"another build is running in {output.folder}") from err
        yield


@contextlib.contextmanager
def clear_storage_errors(output: Output) -> Iterator[None]:
    """Say what to do when the disk is full or cannot be written."""
    try:
        yield
    except OSError as err:
        here = Path(err.filename).is_relative_to(output.folder) if err.filename else False
        if err.errno == errno.EROFS or (here and err.errno in (errno.EACCES, errno.EPERM)):
            raise OSError(
                f"cannot write to {output.folder}: it is read-only for us; make it writable, or"
                " choose another place, and run the same command again"
            ) from err
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(
                f"no space left for {output.folder}: free some and run the same command again;"
                " finished shards are kept"
            ) from err
        raise


def begin(prepared: Prepared, output: Output) -> None:
    """Store plan, job, tokenizer and records for the tasks, unless an earlier run has.

    The publication comes last: while it is not there, there is no plan to be executed.

    Raises:
        ValueError: if the place holds shards of another plan.
    """
    work = output.work
    (work / PUBLICATION).unlink(missing_ok=True)
    output.claim(prepared.plan.digest)
    _clear_traces(prepared.plan, output)
    write_plan(prepared.plan, work)
    write_repeated(prepared.repeated, work)
    prepared.tokenizer.save(work / "tokenizer")
    files = {}
    for one, staged in zip(prepared.sources, prepared.staged, strict=True):
        records = staged.path.with_suffix(".arrow")
        if not records.exists():
            write_record_file(staged.path, records)
        files[one.choice.name] = SourceFiles(
            records=str(records.absolute()),
            roots=tuple(str(root.absolute()) for root in one.roots),
            folders=one.folders,
        )
    _job(prepared.recipe, output=output, files=files).write(work)
    Publication(
        manifest=_manifest(prepared), staged=prepared.staged, left_out=prepared.left_out
    ).write(work)


def _clear_traces(plan: BuildPlan, output: Output) -> None:
    """Remove what earlier runs left that is not of this plan, or half written."""
    work, folder = output.work, output.folder
    found = read_plan(work).digest if (work / PLAN_FILE).exists() else "unknown"
    if output.url is None and any(folder.glob("*.tar")):
        check_same(output, found, plan.digest)
    elif found != plan.digest:
        clear(work)
    remove_half_written(output)


def _job(recipe: Recipe, *, output: Output, files: dict[str, SourceFiles]) -> Job:
    return Job(
        output=replace(output, folder=output.folder.absolute()),
        sources=files,
        image=recipe.image,
        template=recipe.template.name,
        system=recipe.template.system,
        max_tokens=recipe.max_tokens,
        positions_per_image=recipe.positions_per_image,
        libraries=libraries(),
        storage=recipe.storage,
    )


def _run(prepared: Prepared, output: Output) -> None:
    shards, work = prepared.plan.shards, output.work
    missing = [
        number
        for number, shard in enumerate(shards)
        if read_result(work, shard, output=output) is None
    ]
    dialogues = sum(shards[number].end - shards[number].start for number in missing)
    with progress("write shards", total=dialogues, unit="dialogues") as advance:
        run_tasks(
            work,
            missing,
            engine=prepared.recipe.engine,
            workers=prepared.recipe.workers,
            ray_address=prepared.recipe.ray_address,
            on_dialogues=advance,
        )


def _manifest(prepared: Prepared) -> dict[str, Any]:
    recipe = prepared.recipe
    return {
        "digests": {
            "inputs": {one.source: one.digest for one in prepared.staged},
            "plan": prepared.plan.digest,
        },
        "template": {"name": prepared.template.name, "system": prepared.template.system},
        "max_tokens": recipe.max_tokens,
        "positions_per_image": recipe.positions_per_image,
        "image": asdict(recipe.image),
        "recipe": for_manifest(recipe),
        "libraries": libraries(),
        "licences": {one.choice.name: one.source.licence for one in prepared.sources},
    }
