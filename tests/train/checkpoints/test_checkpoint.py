"""A checkpoint is complete or absent, and half of one is never used."""

import pytest

from vchat.train.checkpoints import checkpoint, step_folder
from vchat.train.checkpoints.checkpoint import open_checkpoint
from vchat.train.checkpoints.facts import check_resumable
from vchat.train.checkpoints.step_folder import find_newest, write_json


def write_checkpoint(out, step, *, keep_last=0):
    """Write a checkpoint of three small files the way `save_checkpoint` does."""
    part = step_folder.create_part_folder(out, step=step)
    write_json(part / "state.json", {"format_version": 1, "step": step})
    template = {"name": "visualchat", "system": ""}
    shards = {"image_size": 32, "tokenizer_fingerprint": "f", "template": template}
    write_json(part / "shards.json", shards)
    (part / "model").mkdir()
    (part / "model" / "weights").write_bytes(b"w" * step)
    facts = step_folder.file_facts(part, step_folder.file_names(part))
    step_folder.finish_checkpoint(out, step=step, facts=facts, keep_last=keep_last)
    return out / step_folder.step_name(step)


def test_a_step_folder_and_its_run_open_the_same_checkpoint(tmp_path):
    write_checkpoint(tmp_path, 5)
    folder = write_checkpoint(tmp_path, 10)
    assert open_checkpoint(tmp_path).folder == folder
    assert open_checkpoint(folder).step == 10
    assert (tmp_path / "latest").read_text() == "step-000010\n"


def test_an_unfinished_checkpoint_is_not_opened(tmp_path):
    folder = write_checkpoint(tmp_path, 5)
    part = step_folder.create_part_folder(tmp_path, step=10)
    (part / "state.json").write_text("{}")
    assert find_newest(tmp_path) == folder


@pytest.mark.parametrize("damage", ["missing", "short", "unlisted"])
def test_instead_of_a_damaged_checkpoint_the_one_before_is_opened(tmp_path, damage):
    earlier, newest = write_checkpoint(tmp_path, 5), write_checkpoint(tmp_path, 10)
    if damage == "missing":
        (newest / "model" / "weights").unlink()
    elif damage == "short":
        (newest / "model" / "weights").write_bytes(b"w")
    else:
        (newest / "files.json").unlink()
    assert find_newest(tmp_path) == earlier


def test_a_changed_byte_is_found_and_named(tmp_path):
    opened = open_checkpoint(write_checkpoint(tmp_path, 5))
    checkpoint.verify_files(opened, opened.files)
    (opened.model_folder / "weights").write_bytes(b"x" * 5)
    with pytest.raises(ValueError, match=r"model/weights: SHA-256 \w+, want \w+"):
        checkpoint.verify_files(opened, opened.files)


def test_only_the_last_ones_are_kept(tmp_path):
    for step in (5, 10, 15):
        write_checkpoint(tmp_path, step, keep_last=2)
    assert step_folder.step_folders(tmp_path) == [10, 15]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-000010", "step-000015"]


def test_a_damaged_folder_of_the_same_step_is_replaced(tmp_path):
    (write_checkpoint(tmp_path, 5) / "model" / "weights").unlink()
    assert open_checkpoint(write_checkpoint(tmp_path, 5)).step == 5


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere: neither a complete checkpoint nor a run"):
        open_checkpoint(tmp_path / "nowhere")
    folder = write_checkpoint(tmp_path, 5)
    (folder / "model" / "weights").unlink()
    with pytest.raises(ValueError, match=r"model/weights is missing"):
        open_checkpoint(folder)


def test_a_checkpoint_of_another_format_is_refused(tmp_path):
    folder = write_checkpoint(tmp_path, 5)
    write_json(folder / "state.json", {"format_version": 9, "step": 5})
    with pytest.raises(ValueError, match=r"checkpoint format 9, this program reads 1"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../../elsewhere", "../frozen/../x", "../frozen/a.safetensors", "a/../b", "."],
)
def test_a_listing_names_files_of_the_run_only(tmp_path, name):
    folder = write_checkpoint(tmp_path, 5)
    facts = {"size_bytes": 1, "sha256": "0" * 64}
    write_json(folder / "files.json", {name: facts})
    assert step_folder.find_defect(folder) == (
        f"files.json lists {name!r}, which is not a file of the run"
    )
    assert find_newest(tmp_path) is None


@pytest.mark.parametrize(
    "facts",
    [None, {}, {"size_bytes": "3", "sha256": "0" * 64}, {"size_bytes": 3, "sha256": "../x"}],
)
def test_a_listing_has_a_size_and_a_digest_of_each_file(tmp_path, facts):
    folder = write_checkpoint(tmp_path, 5)
    write_json(folder / "files.json", {"shards.json": facts})
    with pytest.raises(ValueError, match=r"files\.json says .* of shards\.json, want size_bytes"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "file, value, message",
    [
        ("state.json", {"format_version": 1, "step": "5"}, "step is '5', want a number from 0"),
        ("state.json", {"format_version": 1, "step": True}, "step is True, want a number"),
        ("state.json", {"format_version": 1, "step": -1}, "step is -1, want a number from 0"),
        ("shards.json", {}, "tokenizer_fingerprint is None, want a str"),
        (
            "shards.json",
            {"tokenizer_fingerprint": "f", "template": [], "image_size": 32},
            r"template is \[\], want a dict",
        ),
    ],
)
def test_facts_of_another_shape_are_refused_by_name(tmp_path, file, value, message):
    folder = write_checkpoint(tmp_path, 5)
    write_json(folder / file, value)
    listing = step_folder.read_json(folder / "files.json")
    listing[file]["size_bytes"] = (folder / file).stat().st_size
    write_json(folder / "files.json", listing)
    with pytest.raises(ValueError, match=rf"{file}: {message}"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"loader": None}, "loader is None, want a dict"),
        ({"loader": {"epoch": 0}}, "arguments is None, want a dict"),
        ({"world_size": "2"}, "world_size is '2', want a number from 0"),
    ],
)
def test_a_state_that_no_run_can_go_on_from_is_refused_by_name(tmp_path, change, message):
    loader = {"arguments": {}, "digest": "d", "epoch": 0, "position": 5}
    state = {"step": 5, "world_size": 1, "settings": {}, "loader": loader}
    check_resumable(tmp_path, state)
    with pytest.raises(ValueError, match=message):
        check_resumable(tmp_path, state | change)
