"""Raw data in a bucket of a real S3 server or behind HTTP gives the bytes that a folder gives."""

from __future__ import annotations

import base64
import shutil
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vchat.base.cli import WrongUse
from vchat.prep.convert.images import ImagePolicy
from vchat.prep.convert.recipe import Recipe, SourceChoice
from vchat.prep.pipeline.build import build_shards
from vchat.prep.pipeline.planning import plan_build
from vchat.prep.raw.archives import file_names
from vchat.prep.raw.data_path import RemotePath, _bucket, data_path, find_files
from vchat.prep.raw.image_files import ImageFiles
from vchat.prep.raw.rejected import Rejected
from vchat.prep.sample_data.write_world import World, write_world
from vchat.prep.sources.catalogue import SOURCES
from vchat.shards.format.record import ImageRef
from vchat.shards.pixels.limits import MAX_BYTES
from vchat.shards.storage.store import ShardError
from vchat_testing.building import read_files
from vchat_testing.converting import run_source
from vchat_testing.range_server import serve_folder
from vchat_testing.raw_data import (
    IMAGES,
    good_llava_row,
    llava_row,
    write_image,
    write_json,
    write_llava,
)
from vchat_testing.s3_server import SECRET_KEY, Bucket
from vchat_testing.toy import toy_tokenizer


def recipe(data: str, tokenizer: Path, out: Path, *names: str, **files: str) -> Recipe:
    """Return a recipe for data sets by name, and for files of one's own."""
    own = tuple(SourceChoice(name=name, file=file) for name, file in files.items())
    return Recipe(
        source=(*(SourceChoice(name=name) for name in names), *own),
        data=data,
        tokenizer=str(tokenizer),
        out=str(out),
        eval_fraction=0.1,
        shard_size="200KB",
        positions_per_image=5,
        image=ImagePolicy(size=24),
    )


def shards(out: Path) -> dict[str, bytes]:
    return {name: data for name, data in read_files(out).items() if name.endswith(".tar")}


def test_all_data_sets_in_a_bucket_give_the_shards_of_the_folder(s3: Bucket, tmp_path):
    data = tmp_path / "data"
    write_world(data, World(images=120, seed=5))
    s3.put_folder(data, "raw")
    here = recipe(str(data), data / "tokenizer", tmp_path / "here", *SOURCES)
    there = replace(here, data=f"{s3.url}/raw", out=str(tmp_path / "there"), workers=2)
    build_shards(here)
    shutil.rmtree(data / "coco")
    done = build_shards(there)
    assert shards(tmp_path / "there") == shards(tmp_path / "here")
    assert len(done.report["sources"]) == 13
    assert all(one["used_records"] for one in done.report["sources"].values())
    written = [path.read_bytes() for path in (tmp_path / "there").rglob("*") if path.is_file()]
    assert not any(SECRET_KEY.encode() in data for data in written)


def write_archived(data: Path, suffix: str) -> None:
    """Put the photographs of `coco/train2017` into an archive, and remove the folder."""
    folder = data / "coco/train2017"
    paths = sorted(folder.iterdir())
    if suffix == ".zip":
        with zipfile.ZipFile(data / "coco/train2017.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in paths:
                archive.write(path, f"train2017/{path.name}")
    else:
        with tarfile.open(data / "coco/train2017.tar", "w") as archive:
            for path in paths:
                archive.add(path, f"train2017/{path.name}")
    shutil.rmtree(folder)


@pytest.fixture
def llava(tmp_path) -> Path:
    """A folder with a small LLaVA, some of its pictures missing or damaged, and a tokenizer."""
    write_llava(tmp_path / "data", count=12)
    (tmp_path / "data/coco/train2017/000000000002.jpg").unlink()
    write_image(tmp_path / "data/coco/train2017/000000000003.jpg", "truncated")
    write_image(tmp_path / "data/coco/train2017/000000000004.jpg", "tiny")
    write_image(tmp_path / "data/coco/train2017/000000000005.jpg", "large")
    toy_tokenizer(tmp_path / "tokenizer")
    return tmp_path


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_an_archive_in_a_bucket_or_behind_http_is_read_by_range(llava, s3: Bucket, suffix):
    build_shards(recipe(str(llava / "data"), llava / "tokenizer", llava / "folder", "llava"))
    write_archived(llava / "data", suffix)
    s3.put_folder(llava / "data", "raw")
    build_shards(recipe(f"{s3.url}/raw", llava / "tokenizer", llava / "bucket", "llava"))
    assert shards(llava / "bucket") == shards(llava / "folder")
    with serve_folder(llava / "data") as served:
        done = build_shards(recipe(served.url, llava / "tokenizer", llava / "http", "llava"))
    assert shards(llava / "http") == shards(llava / "folder")
    rejected = done.report["sources"]["llava"]["converted"]["rejected_rows"]["counts"]
    assert rejected == {"missing_image": 2, "tiny_image": 2}


def test_a_folder_behind_http_is_read_file_by_file(llava):
    build_shards(recipe(str(llava / "data"), llava / "tokenizer", llava / "folder", "llava"))
    with serve_folder(llava / "data") as served:
        served.fault_of = lambda name, number: "503" if number == 0 else None
        build_shards(recipe(served.url, llava / "tokenizer", llava / "http", "llava"))
        served.fault_of = lambda name, number: None
        covers = data_path(f"{served.url}/OCR_VQA/images")
        with pytest.raises(ValueError, match=r"HTTP cannot list a folder: put a \.zip or \.tar"):
            file_names(covers)
    assert shards(llava / "http") == shards(llava / "folder")


def test_parquet_in_a_bucket_gives_the_records_of_the_folder(s3: Bucket, tmp_path):
    folder = tmp_path / "data/MIMIC-IT/SD/hub"
    folder.mkdir(parents=True)
    ids = [f"SD_IMG_{number:05d}_{side}" for number in range(40) for side in (1, 2)]
    pictures = [base64.b64encode(IMAGES["good"](i)).decode() for i in range(len(ids))]
    pq.write_table(
        pa.table({"id": ids, "base64": pictures}), folder / "p.parquet", row_group_size=9
    )
    pairs = [[ids[2 * number], ids[2 * number + 1]] for number in range(40)]
    instructions = {
        "id": [f"SD_INS_{number}" for number in range(40)],
        "instruction": ["What changed?"] * 40,
        "answer": ["A car."] * 40,
        "images": pairs,
        "related instructions": [[]] * 40,
    }
    pq.write_table(pa.table(instructions), folder / "i.parquet")
    s3.put_folder(tmp_path / "data", "raw")
    source = SOURCES["otter_mimicit_sd"]
    found = [
        run_source(source, place, work=tmp_path / name)
        for name, place in (("a", tmp_path / "data"), ("b", data_path(f"{s3.url}/raw")))
    ]
    assert found[0] == found[1]
    assert len(found[0][0]) == 40


def test_a_file_of_ones_own_in_a_bucket_finds_its_pictures_beside_it(s3: Bucket, tmp_path):
    rows = [
        {"image": f"pictures/{number}.jpg", "conversations": good_llava_row(1)["conversations"]}
        for number in range(8)
    ]
    write_json(tmp_path / "mine/rows.json", rows)
    for number in range(8):
        write_image(tmp_path / f"mine/pictures/{number}.jpg", number=number)
    toy_tokenizer(tmp_path / "tokenizer")
    s3.put_folder(tmp_path / "mine", "mine")
    for out, file in (
        ("here", str(tmp_path / "mine/rows.json")),
        ("there", f"{s3.url}/mine/rows.json"),
    ):
        made = recipe(str(tmp_path), tmp_path / "tokenizer", tmp_path / out, mine=file)
        build_shards(replace(made, identity="bytes"))
    assert read_files(tmp_path / "there") == read_files(tmp_path / "here")


def test_a_path_of_an_annotation_cannot_leave_its_folder_in_the_bucket(s3: Bucket):
    s3.put("secret.jpg", IMAGES["good"](1))
    s3.put("raw/coco/train2017/1.jpg", IMAGES["good"](1))
    images = ImageFiles([data_path(f"{s3.url}/raw")])
    for path in ("../secret.jpg", "coco/../../secret.jpg", "/secret.jpg", "//secret.jpg"):
        with pytest.raises(Rejected, match="unsafe_path"):
            images.read(ImageRef(key="x", file=path))
    odd = (
        "a" * 2000,
        "b/" + "c" * 1100,
        "\ud800.jpg",
        "a\x01b%2e%2e/x",
        "..%2fsecret.jpg",
        "~?#&=+",
    )
    for path in odd:
        with pytest.raises(Rejected, match=r"missing_image|unsafe_path"):
            images.read(ImageRef(key="x", file=path))
    assert images.read(ImageRef(key="x", file="coco//train2017/./1.jpg"))


def test_an_odd_name_in_a_bucket_is_read(s3: Bucket):
    names = ("a b.jpg", "a%41.jpg", "ü#?.jpg")
    for number, name in enumerate(names):
        s3.put(f"raw/{name}", IMAGES["good"](number))
    images = ImageFiles([data_path(f"{s3.url}/raw")])
    for number, name in enumerate(names):
        assert images.read(ImageRef(key="x", file=name)) == IMAGES["good"](number)


def test_a_picture_above_the_limit_is_rejected_before_it_is_read(s3: Bucket, monkeypatch):
    s3.put("raw/big.jpg", IMAGES["large"](1))
    monkeypatch.setattr("vchat.prep.raw.image_files.MAX_BYTES", 1000)
    images = ImageFiles([data_path(f"{s3.url}/raw")])
    assert MAX_BYTES > 1000
    with pytest.raises(Rejected, match="huge_image"):
        images.read(ImageRef(key="x", file="big.jpg"))


def test_a_store_that_fails_stops_the_build_instead_of_losing_records(
    llava, s3: Bucket, monkeypatch
):
    s3.put_folder(llava / "data", "raw")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "guessed")
    monkeypatch.setattr(
        "vchat.prep.raw.data_path._bucket", data_path.__globals__["_bucket"].__wrapped__
    )
    with pytest.raises(ShardError) as error:
        build_shards(recipe(f"{s3.url}/raw", llava / "tokenizer", llava / "out", "llava"))
    assert "guessed" not in str(error.value)


def test_pictures_added_to_a_bucket_are_seen_by_the_next_build(llava, s3: Bucket, monkeypatch):
    s3.put_folder(llava / "data", "raw")
    monkeypatch.setattr(
        "vchat.prep.raw.data_path._bucket", data_path.__globals__["_bucket"].__wrapped__
    )
    wanted = recipe(f"{s3.url}/raw", llava / "tokenizer", llava / "first", "llava")
    first = build_shards(wanted).report["sources"]["llava"]["converted"]
    s3.put("raw/coco/train2017/000000000002.jpg", IMAGES["good"](2))
    (llava / "first/manifest.json").unlink()
    shutil.copytree(llava / "first/.work", llava / "second/.work")
    second = build_shards(replace(wanted, out=str(llava / "second"))).report["sources"]["llava"]
    assert second["converted"]["records"] == first["records"] + 2


def test_globs_in_a_bucket_match_as_in_a_folder(s3: Bucket, tmp_path):
    names = ["x.parquet", "a/y.parquet", "a/b/z.parquet", "a/z.json", "ab.parquet/q.json"]
    for name in names:
        s3.put(f"raw/{name}", b"1")
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    there = data_path(f"{s3.url}/raw")
    assert isinstance(there, RemotePath)
    for pattern in ("**/*.parquet", "*.parquet", "a/**/*.parquet", "a/*.json"):
        here = [p for p in find_files(tmp_path, pattern) if p.is_file()]
        found = [str(path).removeprefix(f"{there}/") for path in find_files(there, pattern)]
        assert found == [p.relative_to(tmp_path).as_posix() for p in here], pattern


@pytest.mark.parametrize(
    "text", ["ftp://host/x", "s3://key:secret@bucket/x", "https://h/x?sig=secret"]
)
def test_a_url_that_cannot_be_read_is_wrong_use(text):
    with pytest.raises(WrongUse) as error:
        data_path(text)
    assert "secret" not in str(error.value)


def test_the_text_of_an_entry_is_the_same_from_a_bucket(s3: Bucket, tmp_path):
    rows = [llava_row(1, "<image>\nWhat\u2028is <b>it</b>? \U0001f600", "A\0B \u202e end.")]
    write_json(tmp_path / "data/llava/conversation_58k.json", rows)
    write_image(tmp_path / "data/coco/train2017/000000000001.jpg")
    s3.put_folder(tmp_path / "data", "raw")
    source = SOURCES["llava_dial"]
    here = run_source(source, tmp_path / "data", work=tmp_path / "a", identity="bytes")
    remote = data_path(f"{s3.url}/raw")
    there = run_source(source, remote, work=tmp_path / "b", identity="bytes")
    assert here == there


def test_missing_and_replaced_pictures_in_a_bucket_are_seen(s3: Bucket, tmp_path):
    rows = [
        {
            "image": f"pictures/{number}.jpg",
            "conversations": good_llava_row(number)["conversations"],
        }
        for number in range(3)
    ]
    write_json(tmp_path / "mine/rows.json", rows)
    write_image(tmp_path / "mine/pictures/0.jpg", number=0)
    toy_tokenizer(tmp_path / "tokenizer")
    file = f"{s3.url}/mine/rows.json"
    made = recipe(str(tmp_path), tmp_path / "tokenizer", tmp_path / "out", mine=file)
    made = replace(made, identity="bytes")

    def stage() -> tuple[int, str]:
        _bucket.cache_clear()  # of another process: this one lists a folder once
        s3.put_folder(tmp_path / "mine", "mine")
        (staged,) = plan_build(made, work=tmp_path / "work").staged
        return staged.tally["records"], staged.digest

    first = stage()
    assert first[0] == 1
    assert stage() == first
    write_image(tmp_path / "mine/pictures/2.jpg", number=2)
    second = stage()
    assert second[0] == 2
    write_image(tmp_path / "mine/pictures/0.jpg", number=1)
    third = stage()
    assert third[0] == 2
    assert third[1] != second[1]
