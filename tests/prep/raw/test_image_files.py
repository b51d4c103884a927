"""A path from an annotation names a file below its folder, or is rejected."""

import pytest

from vchat.prep.raw.image_files import ImageFiles
from vchat.prep.raw.rejected import Rejected
from vchat.shards.format.record import ImageRef
from vchat_testing.raw_data import write_image


def ref(file):
    return ImageRef(key="k", file=file)


def test_the_first_root_that_has_a_file_wins(tmp_path):
    write_image(tmp_path / "a/x.jpg", number=0)
    write_image(tmp_path / "b/x.jpg", number=1)
    write_image(tmp_path / "b/y.jpg", number=2)
    images = ImageFiles([tmp_path / "a", tmp_path / "b"])
    assert images.read(ref("x.jpg")) == (tmp_path / "a/x.jpg").read_bytes()
    assert images.read(ref("y.jpg")) == (tmp_path / "b/y.jpg").read_bytes()
    assert images.examine(ref("y.jpg")).header.size == (48, 36)


@pytest.mark.parametrize("path", ["../x.jpg", "a/../../x.jpg", "/etc/hostname", "", "a\0b"])
def test_an_absolute_path_or_one_with_dots_is_rejected(tmp_path, path):
    write_image(tmp_path / "x.jpg")
    (tmp_path / "root/a").mkdir(parents=True)
    with pytest.raises(Rejected, match="unsafe_path"):
        ImageFiles([tmp_path / "root"]).find(ref(path))


def test_a_link_out_of_its_folder_is_rejected(tmp_path):
    write_image(tmp_path / "outside/x.jpg")
    root = tmp_path / "root"
    (root / "images/deep").mkdir(parents=True)
    (root / "images/x.jpg").symlink_to(tmp_path / "outside/x.jpg")
    (root / "images/deep/all").symlink_to(tmp_path / "outside")
    images = ImageFiles([root], folders=["images/"])
    for path in ("images/x.jpg", "images/deep/all/x.jpg"):
        with pytest.raises(Rejected, match="unsafe_path"):
            images.find(ref(path))


def test_a_linked_data_set_is_followed(tmp_path):
    write_image(tmp_path / "disk/train2017/x.jpg")
    for name in ("coco", "other/train2017"):
        link = tmp_path / "root" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(tmp_path / "disk" / ("train2017" if "/" in name else ""))
    images = ImageFiles([tmp_path / "root"], folders=["other/train2017/"])
    assert images.find(ref("coco/train2017/x.jpg")).is_file()
    assert images.find(ref("other/train2017/x.jpg")).is_file()


def test_a_folder_or_an_endless_name_is_a_missing_image(tmp_path):
    (tmp_path / "folder").mkdir()
    for path in ("folder", "x" * 5000, "folder/x.jpg", "folder/x/y.jpg"):
        with pytest.raises(Rejected, match="missing_image"):
            ImageFiles([tmp_path]).find(ref(path))
