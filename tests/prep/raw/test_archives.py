"""Images are read inside a zip or a tar that replaces their folder."""

import tarfile
import zipfile

import pytest

from vchat.prep.raw.archives import file_names, members_of, read_member
from vchat.prep.raw.image_files import ImageFiles
from vchat.prep.raw.rejected import Rejected
from vchat.prep.sources.catalogue import SOURCES
from vchat_testing.converting import expect, run_source
from vchat_testing.raw_data import IMAGES, write_json, write_llava


def pack(path, contents, *, method=zipfile.ZIP_STORED):
    """Write a zip or a tar, by the path's suffix, of name -> bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, data in contents.items():
                archive.writestr(name, data)
        return
    source = path.with_suffix(".file")
    with tarfile.open(path, "w") as archive:
        for name, data in contents.items():
            source.write_bytes(data)
            archive.add(source, name)
    source.unlink()


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
@pytest.mark.parametrize("prefix", ["train2017/", ""])
def test_an_archive_replaces_an_image_folder(tmp_path, suffix, prefix):
    write_llava(tmp_path, count=4, images=False)
    names = {number: f"{prefix}{number:012d}.jpg" for number in (1, 2, 3)}
    kinds = {1: "good", 2: "tiny", 3: "exif"}
    pictures = {names[number]: IMAGES[kind](number) for number, kind in kinds.items()}
    pack(tmp_path / f"coco/train2017{suffix}", pictures)
    records, tally = run_source(SOURCES["llava"], tmp_path, work=tmp_path / "work")
    expect(tally, records=3, rows={"missing_image": 1, "tiny_image": 2})
    (image,) = records[0].images
    assert (image.key, image.file) == ("coco:1", f"coco/train2017{suffix}")
    assert image.member == names[1]
    assert ImageFiles([tmp_path]).read(image) == pictures[names[1]]


def test_covers_are_found_in_a_deflated_zip_by_any_extension(tmp_path):
    book = {"imageURL": "x.gif", "questions": ["Who?"], "answers": ["Ann"], "split": 1}
    write_json(tmp_path / "OCR_VQA/dataset.json", {"01": book, "02": book})
    covers = {"images/01.gif": IMAGES["gif"](1), "images/02.png": IMAGES["palette"](1)}
    pack(tmp_path / "OCR_VQA/images.zip", covers, method=zipfile.ZIP_DEFLATED)
    records, tally = run_source(SOURCES["ocr_vqa"], tmp_path, work=tmp_path / "work")
    expect(tally, records=2, rows={})
    assert ImageFiles([tmp_path]).read(records[1].images[0]) == covers["images/02.png"]


def test_file_names_of_a_folder_and_of_its_archive_are_equal(tmp_path):
    contents = {"a.jpg": b"1", "b.jpg": b"2"}
    pack(tmp_path / "zipped/images.zip", {f"images/{name}": x for name, x in contents.items()})
    (tmp_path / "plain/images").mkdir(parents=True)
    for name, data in contents.items():
        (tmp_path / "plain/images" / name).write_bytes(data)
    plain, zipped = (file_names(tmp_path / kind / "images") for kind in ("plain", "zipped"))
    assert plain == zipped == ["a.jpg", "b.jpg"]
    assert file_names(tmp_path / "absent") == []


def test_a_damaged_archive_is_named(tmp_path):
    for name in ("a.zip", "a.tar"):
        (tmp_path / name).write_bytes(b"no archive at all" * 100)
        with pytest.raises(ValueError, match=rf"{name}: damaged archive"):
            members_of(tmp_path / name)


@pytest.mark.parametrize("cut", [1, 8, 20])
def test_a_truncated_or_damaged_member_is_rejected(tmp_path, cut):
    path = tmp_path / "a.zip"
    pack(path, {"x.jpg": b"0123456789" * 1000}, method=zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    data[35 : 35 + cut] = b"\xff" * cut
    path.write_bytes(data)
    with pytest.raises(Rejected, match="undecodable_image"):
        read_member(path, "x.jpg")


def test_a_member_that_decompresses_to_too_much_is_rejected_before_it_is_read(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("vchat.prep.raw.archives.MAX_BYTES", 1000)
    path = tmp_path / "a.zip"
    pack(path, {"x.jpg": b"0" * 100_000}, method=zipfile.ZIP_DEFLATED)
    with pytest.raises(Rejected, match="huge_image"):
        read_member(path, "x.jpg")
    with pytest.raises(Rejected, match="missing_image"):
        read_member(path, "y.jpg")
