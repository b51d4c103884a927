"""A build into a bucket of a real S3 server: the bytes of a local build, whole or not there."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from vchat.base.cli import WrongUse
from vchat.prep.commands import main as cli
from vchat.prep.convert.images import ImagePolicy
from vchat.prep.convert.recipe import Recipe, SourceChoice
from vchat.prep.pipeline.array_build import (
    finish_array_build,
    parse_share,
    plan_array_build,
    run_share,
)
from vchat.prep.pipeline.build import build_shards, recipe_output
from vchat.prep.pipeline.planning import plan_build
from vchat.prep.pipeline.retokenize import Retokenization, retokenize
from vchat.prep.pipeline.work_folder import write_work_folder
from vchat.prep.tasks.local_engine import run_tasks
from vchat.prep.tasks.output import CLAIM, parse_output
from vchat.shards.commands import main as shards_cli
from vchat.shards.format.open_shards import open_remote_shards, open_shards
from vchat.shards.storage.config import StorageConfig
from vchat.shards.storage.remote import RemoteStore
from vchat_testing.raw_data import write_image, write_llava
from vchat_testing.s3_server import ACCESS_KEY, SECRET_KEY, Bucket
from vchat_testing.toy import toy_tokenizer
from vchat_testing.toy_loading import first_epoch, keys_of, toy_loader


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Data with one photograph that cannot be decoded, and a local build of it in `plain`."""
    folder = tmp_path_factory.mktemp("s3-output")
    write_llava(folder / "data", count=24)
    write_image(folder / "data/coco/train2017/000000000003.jpg", "truncated")
    toy_tokenizer(folder / "tokenizer")
    build_shards(recipe(folder, out=str(folder / "plain")))
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """A home of the test's own, for copies and work files."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def recipe(folder: Path, *, out: str, **changed) -> Recipe:
    given = Recipe(
        source=(SourceChoice(name="llava", concatenate=2),),
        data=str(folder / "data"),
        tokenizer=str(folder / "tokenizer"),
        out=out,
        eval_fraction=0.2,
        shard_size="12KB",
        positions_per_image=5,
        image=ImagePolicy(size=24),
    )
    return replace(given, **changed)


def local(out: Path) -> dict[str, bytes]:
    """Return the contents of a local shard set by path, the work folder left out."""
    paths = (path for path in out.rglob("*") if path.is_file() and ".work" not in path.parts)
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


def remote(s3: Bucket, prefix: str = "mix") -> dict[str, bytes]:
    """Return the same of a set in a bucket, without the claim that its build left."""
    contents = s3.contents(prefix)
    contents.pop(CLAIM)
    return contents


def test_a_build_into_a_bucket_has_the_bytes_of_a_local_one(folder, s3, home):
    done = build_shards(recipe(folder, out=f"{s3.url}/mix", workers=2))
    assert done.out == f"{s3.url}/mix"
    assert remote(s3) == local(folder / "plain")
    assert len(s3.names("mix")) > 8
    left = [path for path in home.rglob("*.tar") if path.is_file()]
    assert not left, "finished shards fill the local disk"
    assert build_shards(recipe(folder, out=f"{s3.url}/mix")).was_complete


def test_a_set_in_a_bucket_is_inspected_verified_and_loaded(folder, s3, tmp_path):
    s3.put_folder(folder / "plain", "mix")
    for command in ("inspect", "verify"):
        said = CliRunner().invoke(shards_cli.group, [command, f"{s3.url}/mix"])
        assert said.exception is None, said.output
    assert "no defects" in said.output
    keys = [
        keys_of(first_epoch(toy_loader(open_shards(place), image_size=24)))
        for place in (f"{s3.url}/mix", folder / "plain")
    ]
    assert keys[0] == keys[1]
    assert len(keys[0]) > 5


def test_a_flipped_byte_in_a_bucket_is_a_defect(folder, s3):
    s3.put_folder(folder / "plain", "mix")
    data = bytearray(s3.get("mix/train-000001.tar"))
    data[len(data) // 2] ^= 1
    s3.put("mix/train-000001.tar", bytes(data))
    said = CliRunner().invoke(shards_cli.group, ["verify", f"{s3.url}/mix"])
    assert "train-000001.tar: sha256: found" in said.output
    assert "no defects" not in said.output


def test_an_unfinished_set_cannot_be_opened_and_is_finished_by_the_same_command(folder, s3):
    half = recipe(folder, out=f"{s3.url}/mix")
    output = recipe_output(half)
    prepared = plan_build(half, work=output.work)
    write_work_folder(prepared, output)
    run_tasks(output.work, [0, 2], workers=1, on_dialogues=lambda count: None)
    assert [name for name in s3.names("mix") if name.endswith(".tar")] == [
        "mix/train-000000.tar",
        "mix/train-000002.tar",
    ]
    with pytest.raises(ValueError, match=r"no manifest\.json under"):
        open_shards(f"{s3.url}/mix")
    build_shards(half)
    assert remote(s3) == local(folder / "plain")


def test_a_build_goes_on_from_the_bucket_alone_if_its_work_files_are_lost(folder, s3, home):
    half = recipe(folder, out=f"{s3.url}/mix")
    output = recipe_output(half)
    write_work_folder(plan_build(half, work=output.work), output)
    run_tasks(output.work, [1], workers=1, on_dialogues=lambda count: None)
    shutil.rmtree(home)
    build_shards(half)
    assert remote(s3) == local(folder / "plain")


def test_another_build_under_the_same_url_is_refused_before_any_work(folder, s3, home):
    half = recipe(folder, out=f"{s3.url}/mix")
    write_work_folder(plan_build(half, work=recipe_output(half).work), recipe_output(half))
    before = s3.contents("mix")
    with pytest.raises(ValueError, match=r"s3://.*/mix holds another build: its plan is \w{16}"):
        build_shards(replace(half, seed=5, work=str(home / "other")))
    assert s3.contents("mix") == before
    build_shards(half)
    with pytest.raises(ValueError, match="holds another build"):
        build_shards(replace(half, seed=5, work=str(home / "other")))


def test_a_shard_of_unknown_origin_is_never_overwritten(folder, s3):
    s3.put("mix/train-000001.tar", b"something else")
    with pytest.raises(ValueError, match=r"/mix/train-000001.tar is of another build: its sha256"):
        build_shards(recipe(folder, out=f"{s3.url}/mix"))
    assert s3.get("mix/train-000001.tar") == b"something else"
    assert "mix/manifest.json" not in s3.names("mix")


def test_an_array_of_jobs_fills_a_bucket(folder, s3, tmp_path):
    wanted = recipe(folder, out=f"{s3.url}/mix", work=str(tmp_path / "work"))
    plan_array_build(wanted)
    output = parse_output(wanted.out, work=wanted.work)
    with pytest.raises(ValueError, match="shards are not in s3://"):
        finish_array_build(output)
    for number in (1, 0):
        run_share(output, parse_share(f"{number}/2"))
    finish_array_build(output)
    assert remote(s3) == local(folder / "plain")


def test_a_set_is_retokenized_from_bucket_to_bucket(folder, s3, tmp_path):
    s3.put_folder(folder / "plain", "mix")
    wanted = Retokenization(
        shards=str(folder / "plain"),
        tokenizer=str(folder / "tokenizer"),
        out=str(tmp_path / "new"),
        template="visualchat",
        system="Be brief.",
        max_tokens=400,
        positions_per_image=5,
    )
    retokenize(wanted, workers=1)
    there = replace(wanted, shards=f"{s3.url}/mix", out=f"{s3.url}/new")
    retokenize(there, workers=2)
    assert remote(s3, "new") == local(tmp_path / "new")
    with pytest.raises(ValueError, match="holds another build"):
        retokenize(replace(there, max_tokens=300), workers=1)


def test_the_endpoint_of_the_recipe_leads_to_the_store(folder, s3, monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    storage = StorageConfig(endpoint=s3.endpoint)
    build_shards(recipe(folder, out=f"{s3.url}/mix", storage=storage, workers=2))
    assert remote(s3) == local(folder / "plain")


def test_no_key_is_written_anywhere(folder, s3, home):
    build_shards(recipe(folder, out=f"{s3.url}/mix"))
    written = list(s3.contents("mix").values())
    written += [path.read_bytes() for path in home.rglob("*") if path.is_file()]
    assert len(written) > 15
    for secret in (ACCESS_KEY.encode(), SECRET_KEY.encode()):
        assert not any(secret in data for data in written)


def test_a_refused_key_is_one_line_without_the_key(folder, s3, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "guessed-secret")
    with pytest.raises((ValueError, OSError)) as error:
        build_shards(recipe(folder, out=f"{s3.url}/mix"))
    assert f"{s3.url}/mix" in str(error.value)
    assert "\n" not in str(error.value)
    assert "guessed-secret" not in str(error.value)


def test_missing_keys_are_named(folder, s3, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9/169.254.169.254")
    storage = StorageConfig(retry_for_s=0)
    with pytest.raises(ValueError, match="no keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACC"):
        build_shards(recipe(folder, out=f"{s3.url}/mix", storage=storage))


@pytest.mark.parametrize(
    "out, message",
    [
        ("https://host.example/mix", "want a local folder, or s3://, gs:// or az://"),
        ("ftp://host.example/mix", "want a local folder, or s3://, gs:// or az://"),
        ("s3://key:secret@bucket/mix", "was given with a user, password or query"),
    ],
)
def test_a_place_that_cannot_be_written_is_wrong_use(folder, out, message):
    with pytest.raises(ValueError, match=message) as error:
        build_shards(recipe(folder, out=out))
    assert "secret" not in str(error.value)


def test_a_work_folder_is_refused_for_a_local_build(folder, tmp_path):
    with pytest.raises(WrongUse, match=r"--work .* has no place with a local --out"):
        build_shards(recipe(folder, out=str(tmp_path / "out"), work=str(tmp_path)))


def test_the_command_builds_into_a_bucket(folder, s3):
    words = ["build", "--datasets", "llava", "--data", folder / "data", "--tokenizer"]
    words += [folder / "tokenizer", "--out", f"{s3.url}/mix", "--eval-fraction", "0"]
    said = CliRunner().invoke(cli.group, [str(word) for word in words])
    assert said.exception is None, said.output
    assert f"in {s3.url}/mix" in said.output
    assert f"report: {s3.url}/mix/report.html" in said.output


def test_an_upload_costs_no_memory(s3, tmp_path):
    size = 64 << 20
    path = tmp_path / "big.tar"
    with path.open("wb") as file:
        file.truncate(size)
    store = RemoteStore(s3.url)
    before = anonymous_bytes()
    with ThreadPoolExecutor(1) as thread:
        upload = thread.submit(store.create, "big.tar", path, sha256="")
        peak = before
        while not upload.done():
            peak = max(peak, anonymous_bytes())
            time.sleep(0.002)
    upload.result()
    assert peak - before < size // 4
    assert store.size("big.tar") == size


def anonymous_bytes() -> int:
    """Return the memory of this process that is no file's."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("RssAnon:")[2].split()[0])


def test_a_replaced_index_is_not_used(folder, s3, tmp_path):
    s3.put_folder(folder / "plain", "mix")
    s3.put("mix/index/part-00000.parquet", b"PAR1 of another build")
    with pytest.raises(ValueError, match="has sha256"):
        open_remote_shards(f"{s3.url}/mix", copies=tmp_path)
