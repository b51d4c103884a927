"""The last step of a build: check that nothing is lost, write the report, publish the shard set.

In: the work folder, with the plan, a result file per shard, and what `Publication.write` left. Out:
index, tokenizer and report beside the shards, the manifest last. Nothing is read from the sources,
so any machine that sees the work folder can finish a build.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vchat.base.files import write_atomically
from vchat.prep.convert.convert import StagedSource
from vchat.prep.plan.plan import BuildPlan, PlannedShard, read_plan
from vchat.prep.report import report
from vchat.prep.report.unused_examples import Examples
from vchat.prep.tasks.encoded_images import IMAGES_FOLDER as IMAGES_FOLDER
from vchat.prep.tasks.output import MANIFEST, Output, check_same_build
from vchat.prep.tasks.task import ShardResult, read_result
from vchat.shards.format.publish import FinishedShard, publish
from vchat.shards.text.tokenizer import TextTokenizer

PUBLICATION = "publication.json"
_NAMED = 5
"""How many shards an error names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What manifest and report say beside what the tasks found; kept as `PUBLICATION`."""

    manifest: dict[str, Any]
    """The manifest without its shards."""

    staged: tuple[StagedSource, ...]
    unused_examples: dict[str, Examples]
    """Source -> examples of the records that the plan leaves out."""

    def write(self, work: Path) -> None:
        """Store it in the work folder."""
        staged = [asdict(one) | {"path": str(one.path.absolute())} for one in self.staged]
        with write_atomically(work / PUBLICATION) as file:
            found = {"manifest": self.manifest, "staged": staged, "left_out": self.unused_examples}
            file.write(json.dumps(found, indent=1).encode())

    @classmethod
    def read(cls, work: Path) -> Publication:
        """Read what `write` stored."""
        found = json.loads((work / PUBLICATION).read_text(encoding="utf-8"))
        staged = tuple(StagedSource(**one | {"path": Path(one["path"])}) for one in found["staged"])
        return cls(manifest=found["manifest"], staged=staged, unused_examples=found["left_out"])


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """A finished shard set."""

    out: str
    """Folder or URL of the set."""

    report: dict[str, Any]
    was_complete: bool
    """Whether an earlier run had finished the same build."""


def finish_build(output: Output) -> BuildResult:
    """Publish the shard set of a plan whose tasks are all done.

    Raises:
        ValueError: naming the shards that are not written, or what does not add up.
    """
    work = output.work
    plan = read_plan(work)
    publication = Publication.read(work)
    results, finished = _read_results(plan.shards, output=output)
    if not finished:
        raise ValueError("every record was rejected when it was decoded or tokenized")
    found = report.make_report(
        publication.staged,
        plan,
        results,
        finished,
        unused_examples=publication.unused_examples,
        manifest=publication.manifest,
    )
    report.check_conservation(found)
    remove_half_written(output)
    report.write_report(found, output.folder)
    publish(
        output.folder,
        manifest_without_shards=publication.manifest,
        shards=finished,
        tokenizer=TextTokenizer.load(work / "tokenizer"),
    )
    output.publish()
    clear_work_folder(work)
    for staged in publication.staged:
        staged.path.with_suffix(".arrow").unlink(missing_ok=True)
    return BuildResult(out=str(output), report=found, was_complete=False)


def read_same_build(output: Output, plan: BuildPlan) -> BuildResult:
    """Return what is published in a place.

    Raises:
        ValueError: if it is not the set of this plan, naming both.
    """
    manifest = json.loads(output.read(MANIFEST))
    check_same_build(output, manifest["digests"]["plan"], plan.digest)
    return read_published(output)


def read_published(output: Output) -> BuildResult:
    """Return what is published in a place, whatever its plan was."""
    found = json.loads(output.read("report.json"))
    return BuildResult(out=str(output), report=found, was_complete=True)


def clear_work_folder(work: Path) -> None:
    """Remove what tasks of one plan need and leave in the work folder; records and plan stay."""
    (work / PUBLICATION).unlink(missing_ok=True)
    for name in ("results", "progress", "tokenizer", IMAGES_FOLDER):
        shutil.rmtree(work / name, ignore_errors=True)


def remove_half_written(output: Output) -> None:
    """Remove what tasks that were killed had not given its name yet."""
    for half_written in (*output.folder.glob(".*.part"), *output.work.rglob(".*.part")):
        half_written.unlink(missing_ok=True)


def _read_results(
    shards: Sequence[PlannedShard], *, output: Output
) -> tuple[list[ShardResult], list[FinishedShard]]:
    results, finished, missing = [], [], []
    for shard in shards:
        found = read_result(output.work, shard, output=output)
        if found is None:
            missing.append(f"{shard.name}.tar")
            continue
        results.append(found[0])
        if found[1] is not None:
            finished.append(found[1])
    if missing:
        names = ", ".join(missing[:_NAMED]) + (", .." if len(missing) > _NAMED else "")
        raise ValueError(
            f"{len(missing)} of {len(shards)} shards are not in {output}: {names}; run the build,"
            " or its task, again: it writes the missing ones"
        )
    return results, finished
