"""Checkpoints are copied to object storage, complete or absent, and fetched if they are missing."""

import json
import os
import shutil
from pathlib import Path

import pytest

from vchat.train.checkpoints.checkpoint import open_checkpoint
from vchat_testing.training_runs import (
    log_of,
    losses,
    prepare_deepspeed,
    run_here,
    training_shards,
    write_run,
)

SETTINGS = ["run.steps=6", "run.save_every=2", "run.keep_last=2", "run.eval_every=0"]


@pytest.fixture
def run(s3, tmp_path):
    """A finished run of 6 steps with a mirror: its file, its settings, and its losses."""
    s3.put("other", b"")  # the bucket is there
    run_file = write_run(tmp_path, shards=training_shards(tmp_path / "shards"))
    settings = [f"run.mirror={s3.url}/run", *SETTINGS]
    run_here(run_file, *settings)
    return run_file, settings, losses(tmp_path / "out")


def steps_in(s3) -> set[str]:
    return {name.split("/")[1] for name in s3.names("run") if "step-" in name}


def test_a_host_without_the_folder_resumes_from_the_newest_complete_copy(run, s3, capsys):
    run_file, settings, wanted = run
    out = run_file.parent / "out"
    assert steps_in(s3) == {"step-000004", "step-000006"}
    copied = s3.contents("run/step-000006")
    assert copied["files.json"] == (out / "step-000006" / "files.json").read_bytes()
    assert len(copied) == 1 + len(open_checkpoint(out).files)
    shutil.rmtree(out)
    s3.delete("run/step-000006/files.json")  # as if the host had died while it was copied
    capsys.readouterr()
    run_here(run_file, *settings)
    assert "going on after step 4" in capsys.readouterr().err
    assert losses(out) == wanted
    assert [line["step"] for line in log_of(out)] == [1, 2, 3, 4, 5, 6]
    assert s3.contents("run/step-000006").keys() == copied.keys()


def test_a_folder_that_is_newer_than_the_copies_is_kept(run, s3, capsys):
    run_file, settings, _ = run
    s3.delete("run/step-000006/files.json")
    capsys.readouterr()
    run_here(run_file, *settings)
    assert "going on after step 6" in capsys.readouterr().err


def test_a_copy_with_a_changed_byte_is_refused_and_named(run, s3):
    run_file, settings, _ = run
    shutil.rmtree(run_file.parent / "out")
    s3.put("run/step-000006/run.toml", b"other")
    with pytest.raises(ValueError, match=r"/run/step-000006/run.toml: SHA-256 \w+, want \w+"):
        run_here(run_file, *settings)
    assert not (run_file.parent / "out" / "step-000006").exists()


def test_a_mirror_with_a_secret_in_its_url_is_refused(tmp_path):
    run_file = write_run(tmp_path, shards=training_shards(tmp_path / "shards"))
    with pytest.raises(ValueError, match="s3://bucket/run was given with a user, password"):
        run_here(run_file, "run.mirror=s3://me:word@bucket/run")


@pytest.fixture
def half_frozen(s3, tmp_path, monkeypatch):
    """A finished run that trains a part of its weights: file, settings, and names as stored."""
    prepare_deepspeed()
    from vchat.train.checkpoints.mirror import Mirror

    put, stored = Mirror._put, []

    def noted(mirror: Mirror, name: str, path: Path) -> None:
        stored.append(name)
        put(mirror, name, path)

    monkeypatch.setattr(Mirror, "_put", noted)
    s3.put("other", b"")
    run_file = write_run(tmp_path, shards=training_shards(tmp_path / "shards"))
    settings = [f"run.mirror={s3.url}/run", 'train.parts=["embeddings", "projection"]', *SETTINGS]
    run_here(run_file, *settings)
    return run_file, settings, stored


def test_frozen_weights_are_copied_once_and_downloaded_with_the_step_that_refers_to_them(
    half_frozen, s3, capsys
):
    run_file, settings, stored = half_frozen
    out = run_file.parent / "out"
    wanted, (frozen,) = losses(out), (out / "frozen").iterdir()
    assert [name for name in stored if "frozen" in name] == [f"frozen/{frozen.name}"]
    assert len([name for name in stored if name.endswith("files.json")]) == 3
    shutil.rmtree(out)
    s3.delete("run/step-000006/files.json")
    capsys.readouterr()
    run_here(run_file, *settings)
    assert "going on after step 4" in capsys.readouterr().err
    assert losses(out) == wanted
    assert frozen.stat().st_mode & 0o777 == 0o666 & ~umask()
    assert s3.names("run/frozen") == [f"run/frozen/{frozen.name}"]


def umask() -> int:
    os.umask(mask := os.umask(0))
    return mask


def test_changed_frozen_weights_are_refused_and_not_left_behind(half_frozen, s3):
    run_file, settings, _ = half_frozen
    out = run_file.parent / "out"
    shutil.rmtree(out)
    (name,) = s3.names("run/frozen")
    s3.put(name, b"other")
    with pytest.raises(ValueError, match=rf"/{name}: SHA-256 \w+, want \w+"):
        run_here(run_file, *settings)
    assert list((out / "frozen").iterdir()) == []


@pytest.mark.parametrize("name", ["/elsewhere", "../../elsewhere", "../frozen/../../elsewhere"])
def test_a_copy_that_lists_a_file_outside_of_the_run_is_refused(run, s3, name):
    run_file, settings, _ = run
    shutil.rmtree(run_file.parent / "out")
    listing = {name: {"size_bytes": 1, "sha256": "0"}}
    s3.put("run/step-000006/files.json", json.dumps(listing).encode())
    with pytest.raises(ValueError, match=r"lists '.*elsewhere', which is not a file of the run"):
        run_here(run_file, *settings)
