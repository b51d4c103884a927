"""A run on a set of an older format version has the losses of the same set in the newest one.

What older versions wrote: sample files without the fields of version 3, a manifest without digests
of the tokenizer's files (version 2), and without its own digest (version 1).
"""

import json
import shutil
from pathlib import Path

import pytest

from vchat.shards.format.manifest import manifest_digest
from vchat.shards.format.open_shards import open_shards
from vchat_testing.training_runs import (
    losses,
    prepare_deepspeed,
    run_here,
    training_shards,
    write_run,
)

SETTINGS = ("run.steps=4", "run.save_every=2", "run.eval_every=4", "batch.rows_per_micro_batch=5")


@pytest.fixture(scope="module", autouse=True)
def _quiet_deepspeed():
    prepare_deepspeed()


@pytest.fixture(scope="module")
def newest(tmp_path_factory):
    """A run on a set of the newest version."""
    folder = tmp_path_factory.mktemp("newest")
    run_file = write_run(folder, shards=training_shards(folder / "shards"))
    run_here(run_file, *SETTINGS)
    return run_file.parent


def state_as_of(folder: Path, *, version: int) -> None:
    """Write the manifest of a set as that version did; its index and shards are the same."""
    path = folder / "manifest.json"
    path.chmod(0o644)
    manifest = json.loads(path.read_text())
    assert manifest["format_version"] == 3
    manifest["format_version"] = version
    del manifest["tokenizer"]["files"]
    manifest["template"].pop("frame_version", None)
    del manifest["sha256"]
    if version == 2:
        manifest["sha256"] = manifest_digest(manifest)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_set_trains_with_the_same_losses_and_goes_on_as_the_newest(
    newest, tmp_path, version
):
    shards = tmp_path / "shards"
    shutil.copytree(newest / "shards", shards)
    state_as_of(shards, version=version)
    assert open_shards(shards).manifest["format_version"] == version
    run_file = write_run(tmp_path, shards=shards)
    run_here(run_file, *SETTINGS)
    assert losses(tmp_path / "out") == losses(newest / "out")

    shutil.rmtree(tmp_path / "out" / "step-000004")
    run_here(run_file, *SETTINGS, f"data.shards={newest / 'shards'}")
    assert losses(tmp_path / "out") == losses(newest / "out")
