"""Odd sets, hundreds of them: no traceback, no hang, no flood of memory, no wrong delivery."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from vchat.base.cli import run_command
from vchat.shards.format.open_shards import open_shards
from vchat.shards.format.shard_set import ShardSet
from vchat.shards.storage.config import StorageConfig
from vchat_testing.odd_sets import change_set, is_of_bytes
from vchat_testing.range_server import serve_folder
from vchat_testing.toy import toy_shards
from vchat_testing.toy_loading import first_epoch, toy_loader
from vchat_testing.watched_calls import MB, Outcome, make_server, watch_call

CASES = int(os.environ.get("VCHAT_FUZZ_CASES", "150"))
SECONDS = float(os.environ.get("VCHAT_FUZZ_SECONDS", "900"))
"""The soak ends after so long, however many cases it has had."""

FIRST_SEED = int(os.environ.get("VCHAT_FUZZ_SEED", "0"))
LIMIT_S = 20
LIMIT_BYTES = 500 * MB

KEPT_SEEDS = (37,)
"""Seeds that once found something; they are tried first, and in every test run."""

COMMANDS = {
    "inspect": ["SET", "--json"],
    "verify": ["SET"],
    "show": ["SET", "0"],
    "html": ["SET", "--out", "page.html", "--num", "3"],
    "plan": ["SET", "--rows-per-step", "2", "--tokens-per-row", "512"],
}
PRELOADED = (
    "vchat.shards.loading.loader",
    "vchat.shards.inspect.verification",
    "vchat.shards.inspect.terminal",
    "vchat.shards.viewer.page",
    "vchat.prep.pipeline.retokenize",
    "vchat_testing.toy_loading",
)


def run_program(*words: str) -> None:
    """Run one of our commands as its console script does."""
    if words[0] == "vchat-shards":
        from vchat.shards.commands.main import group
    else:
        from vchat.prep.commands.main import group
    sys.argv = list(words)
    run_command(group)


def deliver(place: str, cache: str, found: str) -> None:
    """Read an epoch; write what it delivered, sample by sample."""
    storage = StorageConfig(cache=Path(cache), retry_for_s=1) if cache else None
    try:
        batches = first_epoch(toy_loader(open_shards(place, storage=storage)))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    samples = []
    for batch in batches:
        for row in range(len(batch.token_ids)):
            for segment in range(1, int(batch.segment_ids[row].max()) + 1):
                mask = batch.segment_ids[row] == segment
                ids, labels = batch.token_ids[row][mask], batch.labels[row][mask]
                samples.append([ids.tolist(), labels.tolist()])
    Path(found).write_text(json.dumps(sorted(samples)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return toy_shards(tmp_path_factory.mktemp("whole") / "set", num_samples=8, samples_per_shard=4)


@pytest.fixture(scope="module")
def delivered(whole: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> str:
    found = tmp_path_factory.mktemp("delivered") / "found.json"
    deliver(str(whole.folder), "", str(found))
    return found.read_text()


@pytest.fixture(scope="module")
def watched():  # type: ignore[no-untyped-def]
    return functools.partial(watch_call, make_server(*PRELOADED), limit_s=LIMIT_S)


def snapshot(root: Path) -> dict[str, str]:
    """Return the content of every plain file below a folder."""
    paths = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths
    }


def run_case(seed: int, whole: ShardSet, delivered: str, watched, root: Path) -> list[str]:  # type: ignore[no-untyped-def]
    """Change a set, give it to every reader, and return what none of them may do."""
    root.mkdir()
    kept, cwd = root / "kept", root / "cwd"
    folder = kept / "a" / "b" / "set"
    shutil.copytree(whole.folder, folder)
    cwd.mkdir()
    (kept / "thesis.tar").write_text("two years of work\n" * 100)
    what = change_set(folder, seed=seed, victim=kept / "thesis.tar")
    before = snapshot(kept)
    outcomes: dict[str, Outcome] = {}
    for name, words in COMMANDS.items():
        given = [str(folder) if word == "SET" else word for word in words]
        outcomes[name] = watched(run_program, "vchat-shards", name, *given, folder=cwd)
    tokenizer = str(whole.folder.parent / "toy_tokenizer")
    words = ["retokenize", str(folder), "--tokenizer", tokenizer, "--out", "made", "--workers", "1"]
    outcomes["retokenize"] = watched(run_program, "vchat-prep", *words, folder=cwd)
    found = [root / "found.json", root / "found_remote.json"]
    outcomes["loader"] = watched(deliver, str(folder), "", str(found[0]), folder=cwd)
    with serve_folder(folder) as served:
        cache = str(cwd / "cache")
        outcomes["remote"] = watched(deliver, served.url, cache, str(found[1]), folder=cwd)
    complaints = [
        f"{name}: {one}"
        for name, outcome in outcomes.items()
        for one in outcome.complaints(limit_s=LIMIT_S, limit_bytes=LIMIT_BYTES)
    ]
    is_clean = is_of_bytes(what) or outcomes["verify"].code == 0
    for name, path in zip(("loader", "remote"), found, strict=True):
        if outcomes[name].code == 0 and is_clean and path.read_text() != delivered:
            complaints.append(f"{name}: delivered other samples")
    if snapshot(kept) != before:
        complaints.append("wrote outside of its folder")
    shutil.rmtree(root)
    return [f"{what}: {one}" for one in complaints]


@pytest.mark.parametrize("seed", KEPT_SEEDS)
def test_an_odd_set_that_once_found_something_is_handled(seed, whole, delivered, watched, tmp_path):
    assert run_case(seed, whole, delivered, watched, tmp_path / "case") == []


@pytest.mark.soak
def test_odd_sets_end_in_one_line_or_deliver_what_was_written(whole, delivered, watched, tmp_path):
    assert run_case_of_no_change(whole, delivered, watched, tmp_path / "same") == []
    end = time.monotonic() + SECONDS
    complaints, done = [], 0
    for seed in range(FIRST_SEED, FIRST_SEED + CASES):
        if time.monotonic() > end:
            break
        complaints += run_case(seed, whole, delivered, watched, tmp_path / str(seed))
        done += 1
    print(f"{done} odd sets")
    assert not complaints, "\n".join(complaints)


def run_case_of_no_change(whole: ShardSet, delivered: str, watched, root: Path) -> list[str]:  # type: ignore[no-untyped-def]
    """Check that the whole set passes, so that the cases show something."""
    root.mkdir()
    outcome = watched(run_program, "vchat-shards", "verify", str(whole.folder), folder=root)
    found = root / "found.json"
    loaded = watched(deliver, str(whole.folder), "", str(found), folder=root)
    ended = [str(one) for one in (outcome, loaded) if one.code != 0]
    return ended or ([] if found.read_text() == delivered else ["delivered other samples"])
