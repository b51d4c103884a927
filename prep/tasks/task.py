"""One task of a build: write one whole shard, from the plan and the job in the work folder.

A task needs the work folder and the shard's number, nothing else, so any process on any machine
that sees the folders can run any task, again and in any order, with the same result. It leaves the
shard and, last, a result file beside the plan; a task whose result is there is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

from vchat.prep.convert.images import encode_for_shard
from vchat.prep.convert.staged import RecordFile
from vchat.prep.plan.plan import BuildPlan, PlannedShard, read_plan
from vchat.prep.raw.data_path import data_path
from vchat.prep.raw.identity import digest_of
from vchat.prep.raw.image_files import ImageFiles
from vchat.prep.raw.lookahead import group_by_weight, with_prefetch
from vchat.prep.raw.rejected import Rejected
from vchat.prep.tasks.assemble import Assembler, PreparedRecord
from vchat.prep.tasks.encoded_images import EncodedImages
from vchat.prep.tasks.job import JOB_FILE, BuildJob
from vchat.prep.tasks.libraries import check_libraries
from vchat.prep.tasks.record_counts import RecordCounts
from vchat.prep.tasks.result import read_result, write_task_shard
from vchat.shards.format.record import ImageRef, Record
from vchat.shards.format.sample import Sample, StoredImage
from vchat.shards.text.named_template import make_template
from vchat.shards.text.tokenizer import TextTokenizer

_DIALOGUES_AT_ONCE = 256
"""Dialogues whose records are looked up together."""

_BYTES_AT_ONCE = 4 * 2**20
"""Dialogues of about so many bytes are encoded before the first of them is assembled. Decoding a
picture drives all else out of the processor's caches, so the other work is done for many in a row.
"""

_BYTES_BESIDE_IMAGES = 64 * 2**10
"""What a dialogue counts as besides its images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _OpenJob:
    """A job with its files open, kept by a process for all its tasks."""

    job: BuildJob
    plan: BuildPlan
    assembler: Assembler
    records: dict[str, RecordFile]
    """By source, as are `readers`."""

    readers: dict[str, ImageFiles]
    images: EncodedImages


def run_task(work: Path, number: int, *, on_dialogue: Callable[[], None]) -> None:
    """Write the shard of that number in the plan, unless its result is there already.

    Args:
        work: The work folder.
        number: Of the shard, in the order of the plan.
        on_dialogue: Called after each dialogue, for progress.

    Raises:
        OSError: The disk is full, the shard cannot be uploaded, or an image cannot be read for a
            reason of the machine's.
    """
    opened = _open_job(work, (work / JOB_FILE).stat().st_mtime_ns)
    shard, output = opened.plan.shards[number], opened.job.output
    if read_result(shard, output=output) is not None:
        return
    counts = RecordCounts()
    samples = _make_samples(opened, shard, counts=counts, on_dialogue=on_dialogue)
    write_task_shard(shard, samples, counts=counts, output=output)


@lru_cache(maxsize=1)
def _open_job(work: Path, modified_ns: int) -> _OpenJob:
    """Open the job in `work`; `modified_ns` tells apart jobs written there one after another."""
    job = BuildJob.read(work)
    check_libraries(job.libraries)
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
        readers=_open_readers(job),
        images=EncodedImages(work),
    )


def _open_readers(job: BuildJob) -> dict[str, ImageFiles]:
    return {
        name: ImageFiles(
            [data_path(root, storage=job.storage) for root in one.roots], folders=one.folders
        )
        for name, one in job.sources.items()
    }


def _make_samples(
    opened: _OpenJob,
    shard: PlannedShard,
    *,
    counts: RecordCounts,
    on_dialogue: Callable[[], None],
) -> Iterator[Sample]:
    """Yield the samples of a shard: look up records, prefetch and encode images, assemble."""
    rows = opened.plan.table.slice(shard.start, shard.end - shard.start).to_pylist()
    depth = max(reader.prefetch_depth for reader in opened.readers.values())
    dialogues = with_prefetch(
        _read_dialogues(opened, rows), partial(_prefetch, opened), depth=depth
    )
    encoded = map(partial(_encode_dialogue, opened), dialogues)
    for group in group_by_weight(encoded, weight=_size_bytes, max_weight=_BYTES_AT_ONCE):
        for dialogue in group:
            assembled = opened.assembler.assemble(dialogue, split=shard.split)
            counts.add_dialogue(assembled)
            yield from assembled.samples
            on_dialogue()


def _read_dialogues(opened: _OpenJob, rows: Sequence[dict[str, Any]]) -> Iterator[list[Record]]:
    """Yield the records of each dialogue of the plan; looks up many dialogues' at a time."""
    for start in range(0, len(rows), _DIALOGUES_AT_ONCE):
        some = rows[start : start + _DIALOGUES_AT_ONCE]
        numbers: dict[str, list[int]] = {}
        for row in some:
            numbers.setdefault(row["source"], []).extend(row["rows"])
        found = {name: iter(opened.records[name].records(numbers[name])) for name in numbers}
        for row in some:
            yield list(islice(found[row["source"]], len(row["rows"])))


def _prefetch(opened: _OpenJob, records: Sequence[Record]) -> None:
    for record in records:
        opened.readers[record.source].prefetch(record.images)


def _encode_dialogue(opened: _OpenJob, records: Sequence[Record]) -> list[PreparedRecord]:
    """Return the records of one dialogue with their images as they are stored."""
    prepared = [_prepare_record(opened, record) for record in records]
    for record in records:
        opened.readers[record.source].cancel_prefetch(record.images)
    return prepared


def _prepare_record(opened: _OpenJob, record: Record) -> PreparedRecord:
    try:
        images = tuple(_encode_image(opened, record.source, ref) for ref in record.images)
    except Rejected as rejected:
        return PreparedRecord(record=record, rejected=rejected)
    return PreparedRecord(record=record, images=images)


def _encode_image(opened: _OpenJob, source: str, ref: ImageRef) -> StoredImage:
    def encode(ref: ImageRef) -> StoredImage:
        data = opened.readers[source].read(ref)
        _check_digest(data, ref)
        return encode_for_shard(data, opened.job.image, key=ref.key, name=ref.file)

    return opened.images.get(ref, encode)


def _check_digest(data: bytes, ref: ImageRef) -> None:
    """Check that a picture is the one that the plan has put on this side of the split.

    Raises:
        OSError: It has changed since.
    """
    if ref.digest and digest_of(data) != ref.digest:
        raise OSError(
            f"{ref.file}: the picture has changed since the plan was made; run `plan` or `build`"
            " again"
        )


def _size_bytes(dialogue: Sequence[PreparedRecord]) -> int:
    """Return about how many bytes a dialogue takes while it waits with its images."""
    images = sum(len(image.data) for one in dialogue for image in one.images)
    return images + _BYTES_BESIDE_IMAGES
