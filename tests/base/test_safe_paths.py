"""Names from outside: inside their folder, and plain files only, or refused in one line."""

import os

import pytest

from vchat.base.safe_paths import UnsafePath, find_regular, join_inside, open_regular, read_regular


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/", "/etc/passwd", "../x", "a/../../x", "a\\b", "a\0b", "a\nb", "\x1b"]
)
def test_a_name_that_leads_out_or_is_odd_is_refused(tmp_path, name):
    with pytest.raises(UnsafePath, match="is no name of a file in") as error:
        join_inside(tmp_path, name)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("name", ["a", "a/b.tar", "\u00e9.tar", "..a"])
def test_a_plain_name_stays_below_its_folder(tmp_path, name):
    assert join_inside(tmp_path, name) == tmp_path / name


def test_links_may_stay_inside_and_may_not_leave(tmp_path):
    folder = tmp_path / "set"
    (folder / "sub").mkdir(parents=True)
    (folder / "real").write_bytes(b"inside")
    (tmp_path / "other").write_bytes(b"outside")
    (folder / "inside").symlink_to("real")
    (folder / "outside").symlink_to(tmp_path / "other")
    (folder / "folder").symlink_to(tmp_path)
    assert read_regular(folder, "inside", max_bytes=10) == b"inside"
    for name in ("outside", "folder/other"):
        with pytest.raises(UnsafePath, match="is a link out of"):
            find_regular(folder, name)
    (tmp_path / "linked").symlink_to(folder)
    assert read_regular(tmp_path / "linked", "real", max_bytes=10) == b"inside"


def test_only_plain_files_within_the_limit_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "large").write_bytes(b"12345")
    for name, kind in (("pipe", "a pipe"), ("device", "a device")):
        with pytest.raises(UnsafePath, match=f"{name} is {kind}, wanted a plain file"):
            open_regular(tmp_path, name)
    with pytest.raises(ValueError, match="large has 5 bytes, wanted at most 4"):
        read_regular(tmp_path, "large", max_bytes=4)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path, "absent", max_bytes=4)
