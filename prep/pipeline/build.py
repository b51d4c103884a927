"""A build: convert the sources, decide the plan, run its tasks, publish the shard set.

    OUT/.work/          staged records, plan, job and results (`work_folder`)
    OUT/                shards, index, tokenizer, report; the manifest last

With a URL as OUT, `.work` lies in a local folder and the rest is uploaded as it is finished.

Each step leaves whole files only and skips what is there, so a build that was killed at any moment
goes on when the same command runs again, and gives the same bytes.
"""

from __future__ import annotations

from vchat.base.progress import show_progress
from vchat.prep.convert.recipe import Recipe
from vchat.prep.pipeline.finish import BuildResult, finish_build, read_same_build
from vchat.prep.pipeline.planning import PlannedBuild, plan_build
from vchat.prep.pipeline.work_folder import explain_storage_errors, lock_output, write_work_folder
from vchat.prep.tasks.engines import run_tasks, warm_up
from vchat.prep.tasks.output import Output, parse_output
from vchat.prep.tasks.result import find_missing


def build_shards(recipe: Recipe) -> BuildResult:
    """Make the whole shard set, or finish one that was interrupted.

    Raises:
        WrongUse, ValueError, OSError: One line each, saying what to do.
    """
    output = recipe_output(recipe)
    with explain_storage_errors(output), lock_output(output):
        is_complete = output.is_complete  # a store that refuses us does so before the long work
        if not is_complete:
            warm_up(engine=recipe.engine, workers=recipe.workers)
        planned = plan_build(recipe, work=output.work)
        if is_complete:
            return read_same_build(output, planned.plan)
        write_work_folder(planned, output)
        _write_shards(planned, output)
        return finish_build(output)


def recipe_output(recipe: Recipe) -> Output:
    """Return where a recipe's shards go.

    Raises:
        WrongUse: The recipe does not say, or names a place that cannot be written.
    """
    return parse_output(recipe.out, work=recipe.work, storage=recipe.storage)


def _write_shards(planned: PlannedBuild, output: Output) -> None:
    shards, recipe = planned.plan.shards, planned.recipe
    missing = find_missing(shards, range(len(shards)), output=output)
    dialogues = sum(shards[number].end - shards[number].start for number in missing)
    with show_progress("write shards", total=dialogues, unit="dialogues") as advance:
        run_tasks(
            output.work,
            missing,
            engine=recipe.engine,
            workers=recipe.workers,
            ray_address=recipe.ray_address,
            on_dialogues=advance,
        )
