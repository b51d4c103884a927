"""The work folder of a build: locked, filled for the tasks, cleared when the set is published.

OUT/.work/staged/   records of each source, and where the pictures of large JSON files lie
                    (Parquet), named by a digest of the inputs
OUT/.work/          the plan, the job, and a result file per finished shard
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vchat.base.files import remove_partial_files
from vchat.base.locks import lock_file
from vchat.prep.convert.recipe import Recipe, describe_recipe
from vchat.prep.convert.staged import write_record_file
from vchat.prep.pipeline.planning import PlannedBuild
from vchat.prep.pipeline.publication import PUBLICATION, Publication
from vchat.prep.plan.plan import PLAN_FILE, BuildPlan, read_plan, write_plan
from vchat.prep.tasks.encoded_images import IMAGES_FOLDER, write_repeated_images
from vchat.prep.tasks.job import BuildJob, SourceFiles
from vchat.prep.tasks.libraries import libraries
from vchat.prep.tasks.local_engine import PROGRESS_FOLDER
from vchat.prep.tasks.output import Output, check_same_build
from vchat.prep.tasks.result import RESULTS_FOLDER


@contextlib.contextmanager
def lock_output(output: Output, *, shared: bool = False) -> Iterator[None]:
    """Keep other builds out of the work folder; the lock ends with the process.

    Args:
        output: Of this build.
        shared: Whether others that say so too may come in: tasks of one plan.

    Raises:
        ValueError: Another build is in it.
    """
    with lock_file(output.work / "lock", shared=shared) as is_ours:
        if not is_ours:
            raise ValueError(f"another build is running in {output.folder}")
        yield


@contextlib.contextmanager
def explain_storage_errors(output: Output) -> Iterator[None]:
    """Say what to do when the disk is full or cannot be written."""
    try:
        yield
    except OSError as err:
        is_below = Path(err.filename).is_relative_to(output.folder) if err.filename else False
        if err.errno == errno.EROFS or (is_below and err.errno in (errno.EACCES, errno.EPERM)):
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
        ValueError: The place holds shards of another plan.
    """
    work = output.work
    (work / PUBLICATION).unlink(missing_ok=True)
    output.claim(planned.plan.digest)
    _clear_earlier_runs(planned.plan, output)
    write_plan(planned.plan, work)
    write_repeated_images(planned.repeated_images, work)
    planned.tokenizer.save(work / "tokenizer")
    _make_job(planned.recipe, output=output, files=_write_records(planned)).write(work)
    Publication(
        manifest=_manifest(planned),
        staged=planned.staged,
        unused_examples=planned.unused_examples,
    ).write(work)


def _write_records(planned: PlannedBuild) -> dict[str, SourceFiles]:
    """Write the records of each source for random access; return where its files lie."""
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
    return files


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


def _manifest(planned: PlannedBuild) -> dict[str, Any]:
    """Return the manifest without its shards."""
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


def _clear_earlier_runs(plan: BuildPlan, output: Output) -> None:
    """Remove what earlier runs left that is not of this plan, and partial files.

    Raises:
        ValueError: The folder holds shards of another plan.
    """
    work, folder = output.work, output.folder
    found = read_plan(work).digest if (work / PLAN_FILE).exists() else "unknown"
    if output.url is None and any(folder.glob("*.tar")):
        check_same_build(output, found, plan.digest)
    elif found != plan.digest:
        clear_work_folder(work)
    remove_partial_outputs(output)


def clear_work_folder(work: Path) -> None:
    """Remove what tasks of one plan need and leave in the work folder; records and plan stay."""
    (work / PUBLICATION).unlink(missing_ok=True)
    for name in (RESULTS_FOLDER, PROGRESS_FOLDER, "tokenizer", IMAGES_FOLDER):
        shutil.rmtree(work / name, ignore_errors=True)


def remove_partial_outputs(output: Output) -> None:
    """Remove the unfinished files of tasks that were killed; no task may be running."""
    remove_partial_files(output.folder)
    remove_partial_files(output.work, recursive=True)
