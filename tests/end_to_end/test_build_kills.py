"""A build that is killed ends with the bytes of an undisturbed build.

Killed 20 times at random moments, or on a full or read-only disk; in a folder, and in a bucket of a
real S3 server.

Long: `make soak`.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from vchat.prep.tasks.output import CLAIM
from vchat.shards.format.open_shards import open_shards
from vchat_testing.killing import build_command, kill_until_done, sample_data
from vchat_testing.s3_server import Bucket
from vchat_testing.warm import environment

pytestmark = pytest.mark.soak

KILLS = 20


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return sample_data(tmp_path_factory.mktemp("kills") / "data")


@pytest.fixture(scope="module")
def undisturbed(data) -> tuple[dict[str, str], float]:
    """The digests of a build that nothing disturbs, and how long it takes in seconds."""
    start = time.monotonic()
    subprocess.run(build_command(data, f"{data}-out"), check=True, env=environment())
    return digests(Path(f"{data}-out")), time.monotonic() - start


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and ".work" not in path.parts]
    return {path.relative_to(folder).as_posix(): digest(path.read_bytes()) for path in files}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def stage(folder: Path) -> str:
    """Return how far a build was that was killed."""
    work = folder / ".work"
    if not (work / "plan.arrow").exists():
        return "convert"
    if not (work / "publication.json").exists():
        return "plan"
    results = len(list((work / "results").glob("*.json")))
    if any(folder.glob(".train*.part")):
        return "write"
    if (folder / "index").exists() or not results:
        return "publish" if results else "plan"
    return "between shards"


@pytest.mark.parametrize("seed", range(2))
def test_a_build_killed_20_times_ends_with_the_bytes_of_an_undisturbed_one(
    data, undisturbed, tmp_path, seed, record_property
):
    wanted, seconds = undisturbed
    rng, stages, kills = random.Random(seed), Counter[str](), 0
    while kills < KILLS:
        out = tmp_path / f"shards-{kills}"
        kills += kill_until_done(
            build_command(data, str(out)),
            longest_s=seconds,
            rng=rng,
            most=KILLS - kills,
            after_kill=lambda out=out: stages.update([stage(out)]),
        )
        assert digests(out) == wanted
        shutil.rmtree(out)
    record_property("kills", f"{kills}: {dict(stages)}")
    assert len(stages) > 1


def test_a_build_into_a_bucket_killed_20_times_ends_with_the_same_bytes(
    data, undisturbed, s3: Bucket, tmp_path, record_property
):
    wanted, seconds = undisturbed
    rng, stages, kills, builds = random.Random(3), Counter[str](), 0, 0

    def look() -> None:
        stages.update(["upload" if any(work.glob("*.tar")) else stage(work)])
        if f"mix-{builds}/manifest.json" in s3.names(f"mix-{builds}"):
            assert remote_digests(s3, f"mix-{builds}") == wanted
        else:
            with pytest.raises(ValueError, match=r"no manifest\.json under"):
                open_shards(f"{s3.url}/mix-{builds}")

    while kills < KILLS:
        builds += 1
        work = tmp_path / f"work-{builds}"
        kills += kill_until_done(
            build_command(data, f"{s3.url}/mix-{builds}", "--work", str(work)),
            longest_s=1.5 * seconds,
            rng=rng,
            most=KILLS - kills,
            after_kill=look,
        )
        assert remote_digests(s3, f"mix-{builds}") == wanted
    record_property("kills", f"{kills} of {builds} builds: {dict(stages)}")
    assert len(stages) > 1


def remote_digests(s3: Bucket, prefix: str) -> dict[str, str]:
    contents = s3.contents(prefix)
    contents.pop(CLAIM)
    return {name: digest(data) for name, data in contents.items()}


NAMESPACE = """
set -e
mount -t tmpfs -o {first} tmpfs {out}
if "$@"; then echo "the build did not notice" >&2; exit 9; fi
echo "--- again ---" >&2
mount -o remount,{then} {out}
"$@"
cp -r {out} {copy}
"""


def in_namespace(command: list[str], *, first: str, then: str, out: Path) -> str:
    """Run a command twice on a small file system of its own, which is changed in between.

    Returns what the first run said; the second must succeed, and its output is copied.
    """
    out.mkdir()
    script = NAMESPACE.format(first=first, then=then, out=out, copy=f"{out}-copy")
    words = ["unshare", "-Urm", "sh", "-c", script, "sh", *command]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True)
    if "unshare" in done.stderr and "Operation not permitted" in done.stderr:
        pytest.skip("this machine allows no user namespaces")
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr.partition("--- again ---")[0]


@pytest.mark.parametrize("size", ["400k", "1500k", "5m"])
def test_a_full_disk_is_one_clear_line_and_more_room_finishes_the_build(
    data, undisturbed, tmp_path, size
):
    out = tmp_path / "out"
    said = in_namespace(
        build_command(data, str(out)), first=f"size={size}", then="size=200m", out=out
    )
    error = [line for line in said.splitlines() if line.startswith("error:")]
    assert len(error) == 1, said
    assert f"no space left for {out}: free some and run the same command again" in error[0]
    assert digests(Path(f"{out}-copy")) == undisturbed[0]


def test_a_read_only_disk_is_one_clear_line_and_a_writable_one_finishes_the_build(
    data, undisturbed, tmp_path
):
    out = tmp_path / "out"
    said = in_namespace(build_command(data, str(out)), first="ro", then="rw,size=200m", out=out)
    error = [line for line in said.splitlines() if line.startswith("error:")]
    assert len(error) == 1, said
    assert f"cannot write to {out}: it is read-only" in error[0]
    assert digests(Path(f"{out}-copy")) == undisturbed[0]
