"""One task of a build: write one whole shard, from the plan and the job that are in a folder.

A task needs the work folder and the shard's number, nothing else, so any process on any machine
that sees the folders can run any task, again and in any order, with the same result. It leaves the
shard and, last, a result file beside the plan; a task whose result is there is done.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vchat.base.files import write_atomically
from vchat.base.toml_config import from_table, to_table
from vchat.prep.convert.images import EncodedImage, ImagePolicy, encode_for_shard
from vchat.prep.convert.staged import RecordFile
from vchat.prep.plan.plan import BuildPlan, PlannedShard, read_plan
from vchat.prep.raw.data_path import data_path
from vchat.prep.raw.image_files import ImageFiles
from vchat.prep.raw.lookahead import group_by_weight, with_prefetch
from vchat.prep.raw.rejected import Rejected, Rejections
from vchat.prep.tasks.assemble import Assembler, PreparedRecord
from vchat.prep.tasks.encoded_images import EncodedImages
from vchat.prep.tasks.libraries import check_libraries
from vchat.prep.tasks.output import Output
from vchat.shards.format.index import ROW_SCHEMA
from vchat.shards.format.publish import FinishedShard, describe_shard
from vchat.shards.format.record import ImageRef, Record
from vchat.shards.format.sample import Sample, StoredImage
from vchat.shards.format.writer import write_shard
from vchat.shards.storage.config import StorageConfig
from vchat.shards.text.named_template import make_template
from vchat.shards.text.tokenizer import TextTokenizer

_RECORDS_AT_ONCE = 256
"""So many dialogues' records are looked up together."""

_BYTES_AT_ONCE = 4 * 2**20
"""Dialogues of about so many bytes wait with their images encoded. A picture that is decoded drives
all else out of the processor's caches, so what else there is to do is done for many in a row."""

_BYTES_BESIDE_IMAGES = 64 * 2**10
"""What a dialogue counts as besides its images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFiles:
    """Where one source's records and images lie."""

    records: str
    """Path of the file that `staged.RecordFile` maps."""

    roots: tuple[str, ...]
    """Folders or URLs below which its images are looked up, in order."""

    folders: tuple[str, ...]
    """Image folders that the source names itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildJob:
    """What all tasks of a build share, apart from the plan; kept as `job.json`."""

    output: Output
    """Where the shards go."""

    storage: StorageConfig
    """How folders of images in object storage are reached."""

    sources: dict[str, SourceFiles]
    image: ImagePolicy
    template: str
    system: str | None
    max_tokens: int
    positions_per_image: int
    libraries: dict[str, str]
    """Those that shape bytes, as the machine has them that made the plan."""

    def write(self, work: Path) -> None:
        """Store the job in the work folder."""
        with write_atomically(work / "job.json") as file:
            parts = {"output": to_table(self.output), "storage": to_table(self.storage)}
            content = asdict(self) | parts
            file.write(json.dumps(content, indent=1).encode())

    @classmethod
    def read(cls, work: Path) -> BuildJob:
        """Read what `write` stored."""
        found = json.loads((work / "job.json").read_text(encoding="utf-8"))
        found["output"] = from_table(Output, found["output"], where="job.json")
        found["storage"] = from_table(StorageConfig, found["storage"], where="job.json")
        found["image"] = ImagePolicy(**found["image"])
        found["sources"] = {name: SourceFiles(**one) for name, one in found["sources"].items()}
        return cls(**found)


@dataclass(kw_only=True)
class ShardResult:
    """What became of the records of one shard, by source."""

    used_records: dict[str, int] = field(default_factory=dict)
    used_pairs: dict[str, int] = field(default_factory=dict)
    split_dialogues: int = 0
    """Dialogues that were too long and became several samples."""

    rejected: dict[str, Rejections] = field(default_factory=dict)

    def count_used(self, record: Record) -> None:
        """Count one record that is in the shard."""
        name = record.source
        self.used_records[name] = self.used_records.get(name, 0) + 1
        self.used_pairs[name] = self.used_pairs.get(name, 0) + len(record.rounds)

    def count_rejected(self, record: Record, rejected: Rejected) -> None:
        """Count one record that is not."""
        reasons = self.rejected.setdefault(record.source, Rejections())
        reasons.add(rejected, where=record.key, num_pairs=len(record.rounds))


@dataclass(frozen=True, slots=True, kw_only=True)
class _OpenJob:
    """A job with its files open, kept by a process for all its tasks."""

    job: BuildJob
    plan: BuildPlan
    assembler: Assembler
    records: dict[str, RecordFile]
    readers: dict[str, ImageFiles]
    """By source."""

    encode_image: Callable[[str, ImageRef], EncodedImage]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Encoded:
    """A record and its images as they are stored."""

    record: Record
    images: tuple[StoredImage, ...] = ()
    rejected: Rejected | None = None
    """Why one of its images cannot be used."""


@lru_cache(maxsize=1)
def _open_job(work: Path, modified_ns: int) -> _OpenJob:
    """Open the job in `work`; `made_ns` tells apart jobs that were made there one after another."""
    job = BuildJob.read(work)
    check_libraries(job.libraries)
    readers = {
        name: ImageFiles(
            [data_path(root, storage=job.storage) for root in one.roots], folders=one.folders
        )
        for name, one in job.sources.items()
    }

    kept = EncodedImages(work)

    def image(source: str, ref: ImageRef) -> EncodedImage:
        return kept.get(
            ref, lambda ref: encode_for_shard(readers[source].read(ref), job.image, name=ref.file)
        )

    tokenizer = TextTokenizer.load(work / "tokenizer")
    return _OpenJob(
        job=job,
        plan=read_plan(work),
        assembler=Assembler(
            tokenizer=tokenizer,
            template=make_template(job.template, system=job.system, tokenizer=tokenizer),
            max_tokens=job.max_tokens,
            positions_per_image=job.positions_per_image,
        ),
        records={name: RecordFile(Path(one.records)) for name, one in job.sources.items()},
        readers=readers,
        encode_image=image,
    )


def run_task(work: Path, number: int, *, on_dialogue: Callable[[], None]) -> None:
    """Write the shard of that number in the plan, unless its result is there already.

    Args:
        on_dialogue: called after each dialogue, for progress.

    Raises:
        OSError: if the disk is full, the shard cannot be uploaded, or an image cannot be read for
            a reason of the machine's.
    """
    opened = _open_job(work, (work / "job.json").stat().st_mtime_ns)
    shard, output = opened.plan.shards[number], opened.job.output
    if read_result(work, shard, output=output) is not None:
        return
    result = ShardResult()
    samples = _make_samples(opened, shard, result=result, on_dialogue=on_dialogue)
    write_task_shard(shard, samples, result=result, work=work, output=output)


def _make_samples(
    opened: _OpenJob, shard: PlannedShard, *, result: ShardResult, on_dialogue: Callable[[], None]
) -> Iterator[Sample]:
    rows = opened.plan.table.slice(shard.start, shard.end - shard.start).to_pylist()
    ahead = max(reader.prefetch_depth for reader in opened.readers.values())
    dialogues = with_prefetch(
        _read_dialogues(opened, rows), partial(_prefetch, opened), depth=ahead
    )
    encoded = map(partial(_encode_dialogue, opened), dialogues)
    for group in group_by_weight(encoded, weight=_size_bytes, max_weight=_BYTES_AT_ONCE):
        for dialogue in group:
            yield from _assemble_dialogue(opened, dialogue, split=shard.split, result=result)
            on_dialogue()


def _read_dialogues(opened: _OpenJob, rows: Sequence[dict[str, Any]]) -> Iterator[list[Record]]:
    """Yield the records of each dialogue of the plan, `_RECORDS_AT_ONCE` looked up at a time."""
    for start in range(0, len(rows), _RECORDS_AT_ONCE):
        some = rows[start : start + _RECORDS_AT_ONCE]
        wanted: dict[str, list[int]] = {}
        for row in some:
            wanted.setdefault(row["source"], []).extend(row["rows"])
        found = {name: iter(opened.records[name].records(wanted[name])) for name in wanted}
        for row in some:
            yield list(islice(found[row["source"]], len(row["rows"])))


def _prefetch(opened: _OpenJob, records: Sequence[Record]) -> None:
    for record in records:
        opened.readers[record.source].prefetch(record.images)


def _encode_dialogue(opened: _OpenJob, records: Sequence[Record]) -> list[_Encoded]:
    """Return the records of one dialogue with their images as they are stored."""
    found = [_encode_record(opened, record) for record in records]
    for record in records:
        opened.readers[record.source].cancel_prefetch(record.images)
    return found


def _encode_record(opened: _OpenJob, record: Record) -> _Encoded:
    try:
        images = tuple(_encode_image(opened, record.source, ref) for ref in record.images)
    except Rejected as rejected:
        return _Encoded(record=record, rejected=rejected)
    return _Encoded(record=record, images=images)


def _size_bytes(dialogue: Sequence[_Encoded]) -> int:
    """Return about how many bytes a dialogue takes that waits with its images."""
    images = sum(len(image.data) for one in dialogue for image in one.images)
    return images + _BYTES_BESIDE_IMAGES


def _assemble_dialogue(
    opened: _OpenJob, encoded: Sequence[_Encoded], *, split: str, result: ShardResult
) -> list[Sample]:
    """Return the samples of one dialogue; a record that cannot be used leaves it."""
    prepared, rejected_keys = [], set()

    def reject(record: Record, rejected: Rejected) -> None:
        rejected_keys.add(record.key)
        result.count_rejected(record, rejected)

    for one in encoded:
        if one.rejected is not None:
            reject(one.record, one.rejected)
        else:
            prepared.append(PreparedRecord(record=one.record, images=one.images))
    samples = list(opened.assembler.assemble(prepared, split=split, on_rejected=reject))
    for one in encoded:
        if one.record.key not in rejected_keys:
            result.count_used(one.record)
    result.split_dialogues += len(samples) > 1
    return samples


def _encode_image(opened: _OpenJob, source: str, ref: ImageRef) -> StoredImage:
    encoded = opened.encode_image(source, ref)
    return StoredImage(
        key=ref.key,
        data=encoded.data,
        extension=encoded.extension,
        size=encoded.size,
        original_size=encoded.original_size,
    )


def _results_folder(work: Path) -> Path:
    return work / "results"


def write_task_shard(
    shard: PlannedShard,
    samples: Iterable[Sample],
    *,
    result: ShardResult,
    work: Path,
    output: Output,
) -> None:
    """Write a task's shard, bring it to its place, and store what `read_result` reads.

    Args:
        result: Complete when `samples` is exhausted.
    """
    path = output.folder / f"{shard.name}.tar"
    rows = write_shard(path, samples, first_number=shard.first_number)
    finished = None
    if rows.num_rows:
        finished = describe_shard(path, split=shard.split, rows=rows)
        output.put(path.name, sha256=finished.sha256)
    else:
        path.unlink()
    _write_result(work, shard, rows=rows, finished=finished, result=result)


def _write_result(
    work: Path,
    shard: PlannedShard,
    *,
    rows: pa.Table,
    finished: FinishedShard | None,
    result: ShardResult,
) -> None:
    """Store index rows, then the result, whose presence means that the task is done."""
    folder = _results_folder(work)
    with write_atomically(folder / f"{shard.name}.parquet") as file:
        pq.write_table(rows, file)
    found: dict[str, Any] = {
        "used_records": result.used_records,
        "used_pairs": result.used_pairs,
        "split_dialogues": result.split_dialogues,
        "rejected": {name: reasons.as_json() for name, reasons in result.rejected.items()},
        "bytes": 0 if finished is None else finished.size_bytes,
        "sha256": "" if finished is None else finished.sha256,
    }
    with write_atomically(folder / f"{shard.name}.json") as file:
        file.write(json.dumps(found).encode())


def read_result(
    work: Path, shard: PlannedShard, *, output: Output
) -> tuple[ShardResult, FinishedShard | None] | None:
    """Return what a finished task left, or None if it is not done.

    The shard is None if no record of it could be used.
    """
    file = _results_folder(work) / f"{shard.name}.json"
    if not file.exists():
        return None
    found = json.loads(file.read_text(encoding="utf-8"))
    name, size_bytes, sha256 = f"{shard.name}.tar", found.pop("bytes"), found.pop("sha256")
    if size_bytes and not output.has(name, size_bytes):
        return None
    rejected = {name: Rejections.from_json(one) for name, one in found.pop("rejected").items()}
    result = ShardResult(rejected=rejected, **found)
    if not size_bytes:
        return result, None
    rows = pq.read_table(file.with_suffix(".parquet")).cast(ROW_SCHEMA)
    finished = FinishedShard(
        name=name, split=shard.split, size_bytes=size_bytes, sha256=sha256, rows=rows
    )
    return result, finished
