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

from vchat.base.cli import WrongUse
from vchat.base.progress import show_progress
from vchat.prep.convert.convert import StagedSource
from vchat.prep.convert.convert_all import convert_all
from vchat.prep.convert.recipe import Recipe, describe_recipe, size_in_bytes
from vchat.prep.convert.resolve import ResolvedSource, resolve_sources
from vchat.prep.convert.staged import read_plan_columns, write_record_file
from vchat.prep.pipeline.finish import (
    PUBLICATION,
    BuildResult,
    Publication,
    clear_work_folder,
    finish_build,
    read_same_build,
    remove_half_written,
)
from vchat.prep.plan.blend import RecordColumns, blend_records, compute_record_columns
from vchat.prep.plan.plan import PLAN_FILE as PLAN_FILE
from vchat.prep.plan.plan import BuildPlan, make_plan, read_plan, write_plan
from vchat.prep.report.unused_examples import Examples, find_unused_examples
from vchat.prep.tasks.encoded_images import find_repeated_images, write_repeated_images
from vchat.prep.tasks.engines import run_tasks, warm_up
from vchat.prep.tasks.libraries import libraries
from vchat.prep.tasks.output import Output, check_same_build, parse_output
from vchat.prep.tasks.task import BuildJob, SourceFiles, read_result
from vchat.shards.text.named_template import make_template
from vchat.shards.text.template import Template
from vchat.shards.text.tokenizer import TextTokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedBuild:
    """Everything decided, nothing heavy done."""

    recipe: Recipe
    sources: tuple[ResolvedSource, ...]
    staged: tuple[StagedSource, ...]
    plan: BuildPlan
    unused_examples: dict[str, Examples]
    """Source -> examples of the records that the plan leaves out."""

    repeated_images: NDArray[np.uint64]
    """Hashes of the images that are used more than once."""

    tokenizer: TextTokenizer
    template: Template


def plan_build(recipe: Recipe, *, work: Path) -> PlannedBuild:
    """Convert the sources (or find them converted) and decide the plan.

    Raises:
        WrongUse, ValueError, OSError: one line each, saying what to do.
    """
    sources = resolve_sources(recipe)
    if recipe.tokenizer is None:
        raise WrongUse("no tokenizer: give its folder with --tokenizer")
    tokenizer = TextTokenizer.load(Path(recipe.tokenizer))
    template = make_template(
        recipe.template.name, system=recipe.template.system, tokenizer=tokenizer
    )
    staged = convert_all(sources, recipe=recipe, work=work / "staged")
    columns = [_read_columns(one, recipe) for one in staged]
    limits = [one.choice.limit for one in sources]
    blends = blend_records(
        columns,
        concatenate=[one.choice.concatenate for one in sources],
        limits=limits,
        max_images=recipe.max_images,
        eval_fraction=recipe.eval_fraction,
    )
    settings = {
        "inputs": {one.source: one.digest for one in staged},
        "recipe": describe_recipe(recipe),
        "tokenizer": tokenizer.fingerprint,
        "template": template.digest,
        "libraries": libraries(),
    }
    plan = make_plan(
        columns, blends, shard_bytes=size_in_bytes(recipe.shard_size), settings=settings
    )
    return PlannedBuild(
        recipe=recipe,
        sources=sources,
        staged=staged,
        plan=plan,
        unused_examples=find_unused_examples(
            staged, columns, blends, limits=limits, max_images=recipe.max_images
        ),
        repeated_images=find_repeated_images(columns, blends),
        tokenizer=tokenizer,
        template=template,
    )


def _read_columns(staged: StagedSource, recipe: Recipe) -> RecordColumns:
    batches = read_plan_columns(staged.path)
    return compute_record_columns(staged.source, batches, seed=recipe.seed, policy=recipe.image)


def build_shards(recipe: Recipe) -> BuildResult:
    """Make the whole shard set, or finish one that was interrupted.

    Raises:
        WrongUse, ValueError, OSError: one line each, saying what to do.
    """
    output = recipe_output(recipe)
    with explain_storage_errors(output), lock_output(output):
        is_complete = output.is_complete  # a store that refuses us does so before the long work
        if not is_complete:
            warm_up(engine=recipe.engine, workers=recipe.workers)
        prepared = plan_build(recipe, work=output.work)
        if is_complete:
            return read_same_build(output, prepared.plan)
        write_work_folder(prepared, output)
        _write_shards(prepared, output)
        return finish_build(output)


def recipe_output(recipe: Recipe) -> Output:
    """Return where a recipe's shards go.

    Raises:
        WrongUse: if the recipe does not say, or names a place that cannot be written.
    """
    return parse_output(recipe.out, work=recipe.work, storage=recipe.storage)


@contextlib.contextmanager
def lock_output(output: Output, *, shared: bool = False) -> Iterator[None]:
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
def explain_storage_errors(output: Output) -> Iterator[None]:
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


def write_work_folder(planned: PlannedBuild, output: Output) -> None:
    """Store plan, job, tokenizer and records for the tasks, unless an earlier run has.

    The publication comes last: while it is not there, there is no plan to be executed.

    Raises:
        ValueError: if the place holds shards of another plan.
    """
    work = output.work
    (work / PUBLICATION).unlink(missing_ok=True)
    output.claim(planned.plan.digest)
    _clear_earlier_runs(planned.plan, output)
    write_plan(planned.plan, work)
    write_repeated_images(planned.repeated_images, work)
    planned.tokenizer.save(work / "tokenizer")
    files = {}
    for one, staged in zip(planned.sources, planned.staged, strict=True):
        records = staged.path.with_suffix(".arrow")
        if not records.exists():
            write_record_file(staged.path, records)
        files[one.choice.name] = SourceFiles(
            records=str(records.absolute()),
            roots=tuple(str(root.absolute()) for root in one.roots),
            folders=one.folders,
        )
    _make_job(planned.recipe, output=output, files=files).write(work)
    Publication(
        manifest=_manifest(planned), staged=planned.staged, unused_examples=planned.unused_examples
    ).write(work)


def _clear_earlier_runs(plan: BuildPlan, output: Output) -> None:
    """Remove what earlier runs left that is not of this plan, or half written."""
    work, folder = output.work, output.folder
    found = read_plan(work).digest if (work / PLAN_FILE).exists() else "unknown"
    if output.url is None and any(folder.glob("*.tar")):
        check_same_build(output, found, plan.digest)
    elif found != plan.digest:
        clear_work_folder(work)
    remove_half_written(output)


def _make_job(recipe: Recipe, *, output: Output, files: dict[str, SourceFiles]) -> BuildJob:
    return BuildJob(
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


def _write_shards(planned: PlannedBuild, output: Output) -> None:
    shards, work = planned.plan.shards, output.work
    missing = [
        number
        for number, shard in enumerate(shards)
        if read_result(work, shard, output=output) is None
    ]
    dialogues = sum(shards[number].end - shards[number].start for number in missing)
    with show_progress("write shards", total=dialogues, unit="dialogues") as advance:
        run_tasks(
            work,
            missing,
            engine=planned.recipe.engine,
            workers=planned.recipe.workers,
            ray_address=planned.recipe.ray_address,
            on_dialogues=advance,
        )


def _manifest(planned: PlannedBuild) -> dict[str, Any]:
    recipe = planned.recipe
    return {
        "digests": {
            "inputs": {one.source: one.digest for one in planned.staged},
            "plan": planned.plan.digest,
        },
        "template": {"name": planned.template.name, "system": planned.template.system},
        "max_tokens": recipe.max_tokens,
        "positions_per_image": recipe.positions_per_image,
        "image": asdict(recipe.image),
        "recipe": describe_recipe(recipe),
        "libraries": libraries(),
        "licences": {one.choice.name: one.source.licence for one in planned.sources},
    }
