"""A run from shards in a bucket: the same losses, its reading logged, no secret left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from vchat.base.cli import WrongUse
from vchat.train.config.run import read_run
from vchat_testing.s3_server import ACCESS_KEY, SECRET_KEY, Bucket
from vchat_testing.training_runs import log_of, losses, run_here, training_shards, write_run


def test_a_run_from_a_bucket_is_the_run_from_the_folder_and_keeps_no_secret(
    s3: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = training_shards(tmp_path / "shards")
    s3.put_folder(shards, "set")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    keys = tmp_path / "keys"
    keys.write_text(
        f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    )
    short = ("run.steps=3", "run.eval_every=2")
    run_here(write_run(tmp_path / "local", shards=shards), *short)
    remote = write_run(tmp_path / "remote", shards=shards)
    storage = {"endpoint": s3.endpoint, "credentials_file": keys, "cache": tmp_path / "cache"}
    settings = [f"storage.{name}={value}" for name, value in storage.items()]
    run_here(remote, *short, f"data.shards={s3.url}/set", *settings)

    out = tmp_path / "remote" / "out"
    assert losses(out) == losses(tmp_path / "local" / "out")
    lines = log_of(out)
    assert sum(line["network_bytes"] for line in lines) > 0
    assert sum(line["decode_s"] for line in lines) > 0
    assert sum(line["network_bytes"] for line in log_of(tmp_path / "local" / "out")) == 0
    written = [path for path in out.rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if SECRET_KEY.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    "setting, message",
    [
        ("storage.endpoint=http://me:secret@host", "give keys through the environment"),
        ("storage.cache_bytes=0", "cache_bytes must be at least 1 byte, got 0"),
        ("storage.cash=/tmp/x", "did you mean 'cache'"),
        ("data.on_fault=ignore", "want one of 'raise', 'skip'"),
    ],
)
def test_wrong_storage_settings_are_refused(tmp_path: Path, setting: str, message: str) -> None:
    with pytest.raises(WrongUse, match=message) as error:
        read_run(write_run(tmp_path, shards=tmp_path), overrides=[setting])
    assert "secret@" not in str(error.value)
