"""Make a shard set for another decoder from the rounds and images that a set has stored.

Input: a finished shard set, a tokenizer, a template and a length limit. Output: a shard set of
as many shards, with the same dialogues under new token ids and the same bytes of every image; the
sources are not needed. A dialogue that is now too long is cut between rounds or loses the records
that cannot fit, as in a build; dialogues that were cut before are not joined again.

Shards are written independently: a run that was killed goes on where it stopped, and the bytes are
the same for any number of workers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vchat.base.cli import WrongUse
from vchat.base.files import write_atomically
from vchat.base.processes import process_pool
from vchat.base.progress import show_progress
from vchat.prep.pipeline.work_folder import remove_partial_outputs
from vchat.prep.plan.plan import PlannedShard
from vchat.prep.tasks.assemble import Assembler, PreparedRecord
from vchat.prep.tasks.libraries import token_libraries
from vchat.prep.tasks.output import MANIFEST, Output, check_same_build, parse_output
from vchat.prep.tasks.record_counts import RecordCounts, check_conservation
from vchat.prep.tasks.result import find_missing, read_results, write_task_shard
from vchat.shards.format.open_shards import open_shards
from vchat.shards.format.publish import FinishedShard, publish
from vchat.shards.format.record import ImageRef, Record, Round
from vchat.shards.format.sample import RecordOrigin, Sample
from vchat.shards.format.shard_set import ShardSet
from vchat.shards.text.named_template import make_template
from vchat.shards.text.tokenizer import TextTokenizer

KEPT_KEYS = ("image", "licences", "recipe")
"""Keys of the old manifest about images and sources, which do not change."""

ORIGIN_KEYS = (
    "digests",
    "template",
    "tokenizer",
    "max_tokens",
    "positions_per_image",
    "retokenized",
)
"""Keys of the old manifest that the new one holds as its origin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retokenization:
    """Which set is read, and what is made of it."""

    shards: str
    """Folder or URL of the set that is read."""

    tokenizer: str
    """Folder with tokenizer.json."""

    out: str
    """Folder or URL of the new set."""

    work: str | None = None
    """Local folder for work files if `out` is a URL; None for one below `~/.cache/vchat/builds`."""

    template: str
    system: str | None
    """The system text; None for the template's own."""

    max_tokens: int
    """The longest sample in positions of the decoder, image positions included."""

    positions_per_image: int

    @property
    def output(self) -> Output:
        """Where the new set goes."""
        return parse_output(self.out, work=self.work)

    def __post_init__(self) -> None:
        for name in ("max_tokens", "positions_per_image"):
            if getattr(self, name) < 1:
                raise WrongUse(f"{name} = {getattr(self, name)}: want at least 1")


def complete_request(
    shards: str,
    *,
    tokenizer: str,
    out: str,
    work: str | None,
    template: str | None,
    system: str | None,
    max_tokens: int | None,
    positions_per_image: int | None,
) -> Retokenization:
    """Return a request; the manifest of the set that is read replaces what is None.

    Its system text counts for its own template only.

    Raises:
        WrongUse: A number is below 1.
        ValueError, OSError: The set cannot be read.
    """
    opened = open_shards(shards)
    own = opened.manifest["template"]
    if system is None and template in (None, own["name"]):
        system = own["system"]
    return Retokenization(
        shards=shards,
        tokenizer=tokenizer,
        out=out,
        work=work,
        template=template or own["name"],
        system=system,
        max_tokens=opened.limit("max_tokens") if max_tokens is None else max_tokens,
        positions_per_image=(
            opened.limit("positions_per_image")
            if positions_per_image is None
            else positions_per_image
        ),
    )


def retokenize(request: Retokenization, *, workers: int) -> dict[str, Any]:
    """Write the new set, or finish one that was interrupted; return its manifest.

    Args:
        request: Which set, and what to make of it.
        workers: Processes that write shards; never changes a byte.

    Raises:
        ValueError, OSError: One line each, saying what to do.
    """
    output = request.output
    if output.url is not None:
        request = replace(request, work=str(output.folder))  # the same for every process
    opened = _open_set(request)
    digest = _digest(request, opened)
    if output.is_complete:
        return _read_complete(output, digest)
    _claim_output(output, digest)
    shards = plan_shards(opened.shards)
    missing = [shards[i] for i in find_missing(shards, range(len(shards)), output=output)]
    with show_progress("retokenize", total=sum(s.end for s in missing), unit="samples") as advance:
        for num_samples in _write_shards(request, missing, workers=workers):
            advance(num_samples)
    return _finish_set(request, opened, shards, digest=digest)


def plan_shards(shards: ShardSet) -> list[PlannedShard]:
    """Return the new shards: those of the set, numbered so that every round may become a sample."""
    index = shards.index()
    first_number = 0
    planned = []
    for number, shard in enumerate(shards.manifest["shards"]):
        rows = index.filter(pc.equal(index["shard"], number))
        planned.append(
            PlannedShard(
                name=shard["name"].removesuffix(".tar"),
                split=shard["split"],
                first_number=first_number,
                start=0,
                end=rows.num_rows,
                records=pc.sum(rows["num_records"]).as_py() or 0,
                images=pc.sum(rows["num_images"]).as_py() or 0,
                stored_bytes=shard["bytes"],
            )
        )
        first_number += pc.sum(rows["num_rounds"]).as_py() or 0
    return planned


@dataclass(frozen=True, slots=True, kw_only=True)
class _OpenSet:
    """What every task of one run needs."""

    shards: ShardSet
    assembler: Assembler


@lru_cache(maxsize=1)
def _open_set(request: Retokenization) -> _OpenSet:
    tokenizer = TextTokenizer.load(Path(request.tokenizer))
    return _OpenSet(
        shards=open_shards(request.shards),
        assembler=Assembler(
            tokenizer=tokenizer,
            template=make_template(request.template, system=request.system, tokenizer=tokenizer),
            max_tokens=request.max_tokens,
            positions_per_image=request.positions_per_image,
        ),
    )


def _digest(request: Retokenization, opened: _OpenSet) -> str:
    """Return the SHA-256 over all that shapes the new set's bytes."""
    settings = {
        "from": opened.shards.manifest["digests"],
        "tokenizer": opened.assembler.tokenizer.fingerprint,
        "template": opened.assembler.template.digest,
        "max_tokens": request.max_tokens,
        "positions_per_image": request.positions_per_image,
        "libraries": token_libraries(),
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _read_complete(output: Output, digest: str) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(output.read(MANIFEST))
    check_same_build(output, manifest.get("digests", {}).get("plan"), digest)
    return manifest


def _claim_output(output: Output, digest: str) -> None:
    """Claim the output for this set, and remove the partial files of a killed run."""
    claim = output.work / "retokenize.json"
    if claim.exists():
        check_same_build(output, json.loads(claim.read_text(encoding="utf-8"))["digest"], digest)
    elif any(output.folder.glob("*.tar")):
        check_same_build(output, "unknown", digest)
    output.claim(digest)
    with write_atomically(claim) as file:
        file.write(json.dumps({"digest": digest}).encode())
    remove_partial_outputs(output)


def _write_shards(
    request: Retokenization, shards: Sequence[PlannedShard], *, workers: int
) -> Iterator[int]:
    """Write the shards; yield the number of samples read for each as it is done."""
    task = partial(retokenize_shard, request)
    if workers == 1 or len(shards) < 2:
        yield from map(task, shards)
        return
    try:
        with process_pool(min(workers, len(shards)), preload=[__name__]) as pool:
            yield from pool.map(task, shards)
    except BrokenProcessPool as err:
        raise OSError(
            "a worker process died (out of memory, or killed); run the same command again to go on"
            " from the finished shards"
        ) from err


def retokenize_shard(request: Retokenization, shard: PlannedShard) -> int:
    """Write one new shard and its result file; return the number of samples read."""
    output, counts = request.output, RecordCounts()
    samples = _make_samples(_open_set(request), shard, counts=counts)
    write_task_shard(shard, samples, counts=counts, output=output)
    return shard.end


def _make_samples(
    opened: _OpenSet, shard: PlannedShard, *, counts: RecordCounts
) -> Iterator[Sample]:
    names = [entry["name"] for entry in opened.shards.manifest["shards"]]
    index = opened.shards.index()
    rows = index.filter(pc.equal(index["shard"], names.index(f"{shard.name}.tar")))
    for number in range(rows.num_rows):
        (row,) = rows.slice(number, 1).to_pylist()
        yield from _reassemble(opened, opened.shards.read_sample(row), counts=counts)


def _reassemble(opened: _OpenSet, sample: Sample, *, counts: RecordCounts) -> list[Sample]:
    """Return the samples that one becomes; a record that cannot be used leaves it.

    Their keys are unique: parts of a dialogue that is cut add `~0`, `~1`, ...
    """
    prepared = [_prepare_record(sample, origin) for origin in sample.records]
    dialogue = opened.assembler.assemble(prepared, split=sample.split)
    counts.add_dialogue(dialogue)
    parts = dialogue.samples
    keys = [
        f"{sample.key}~{number}" if len(parts) > 1 else sample.key for number in range(len(parts))
    ]
    return [replace(part, key=key) for part, key in zip(parts, keys, strict=True)]


def _prepare_record(sample: Sample, origin: RecordOrigin) -> PreparedRecord:
    """Return the part of a record that a sample holds, with its images as they are stored."""
    stored = sample.rounds[origin.first_round : origin.first_round + origin.num_rounds]
    rounds = tuple(
        Round(
            images=tuple(ImageRef(key=sample.images[n].key, file="") for n in one.images),
            question=one.question,
            answer=one.answer,
            places=one.places,
            supervised=one.supervised,
        )
        for one in stored
    )
    return PreparedRecord(
        record=Record(
            key=origin.key,
            source=sample.source,
            rounds=rounds,
            licence=origin.licence,
            file=origin.file,
            record_id=origin.record_id,
            marks=origin.marks,
            system=sample.system,
        ),
        images=tuple(sample.images[n] for one in stored for n in one.images),
    )


def _finish_set(
    request: Retokenization, opened: _OpenSet, shards: Sequence[PlannedShard], *, digest: str
) -> dict[str, Any]:
    """Check that no record is lost, and publish; return the manifest."""
    output, counts = request.output, RecordCounts()
    results, finished = read_results(shards, output=output)
    for result in results:
        counts.merge(result)
    _check_conservation(opened.shards, counts, finished)
    if not finished:
        raise ValueError(f"no round of {request.shards} fits into {request.max_tokens} positions")
    described = _manifest(request, opened, counts, digest=digest)
    tokenizer = opened.assembler.tokenizer
    publish(output.folder, manifest_without_shards=described, shards=finished, tokenizer=tokenizer)
    manifest = open_shards(output.folder).manifest
    output.publish()
    return manifest


def _check_conservation(
    old: ShardSet, counts: RecordCounts, finished: Sequence[FinishedShard]
) -> None:
    """Check that every record and every pair of the old set is used or rejected."""
    index = old.index()
    flat = pa.table(
        {
            "source": index["source"].cast(pa.string()),
            "records": index["num_records"],
            "pairs": index["num_rounds"],
        }
    )
    sums = flat.group_by("source").aggregate([("records", "sum"), ("pairs", "sum")]).to_pylist()
    check_conservation(
        counts,
        records={one["source"]: one["records_sum"] for one in sums},
        pairs={one["source"]: one["pairs_sum"] for one in sums},
        shards=finished,
    )


def _manifest(
    request: Retokenization, opened: _OpenSet, counts: RecordCounts, *, digest: str
) -> dict[str, Any]:
    old = opened.shards.manifest
    template = opened.assembler.template
    return {
        **{name: old[name] for name in KEPT_KEYS if name in old},
        "digests": {"inputs": old["digests"].get("inputs", {}), "plan": digest},
        "template": {"name": template.name, "system": template.system},
        "max_tokens": request.max_tokens,
        "positions_per_image": request.positions_per_image,
        "libraries": old.get("libraries", {}) | token_libraries(),
        "retokenized": {
            "from": {name: old[name] for name in ORIGIN_KEYS if name in old},
            "used_records": counts.used_records,
            "split_dialogues": counts.split_dialogues,
            "rejected": {name: one.as_json() for name, one in counts.rejected.items()},
        },
    }
