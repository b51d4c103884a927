"""Files that appear whole, and what a killed process leaves of them."""

import pytest

from vchat.base.files import inherit_permissions, remove_partial_files, write_atomically


@pytest.mark.parametrize("sync", [True, False])
def test_a_file_appears_only_when_the_block_ends(tmp_path, sync):
    path = tmp_path / "new" / "file"
    with write_atomically(path, sync=sync) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), write_atomically(path) as file:
        file.write("no bytes")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def leave_partial(path):
    """Do what a killed process does: leave the block without its end."""
    block = write_atomically(path)
    block.__enter__().write(b"half")
    return block  # kept alive: its end would clean up


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    (tmp_path / "file").write_bytes(b"whole")
    (tmp_path / "file.part").write_bytes(b"not one of ours")
    blocks = [leave_partial(tmp_path / "file"), leave_partial(tmp_path / "below" / "file")]
    assert len(list(tmp_path.rglob(".*.part"))) == len(blocks)
    remove_partial_files(tmp_path)
    assert [found.parent.name for found in tmp_path.rglob(".*.part")] == ["below"]
    remove_partial_files(tmp_path, recursive=True)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "file.part", "below"}
    remove_partial_files(tmp_path / "absent", recursive=True)


def test_a_private_file_becomes_as_readable_as_its_folder(tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "weights").touch(mode=0o600)
    inherit_permissions(tmp_path / "weights")
    assert (tmp_path / "weights").stat().st_mode & 0o777 == 0o644
