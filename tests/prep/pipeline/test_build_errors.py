"""Wrong inputs: one clear line and an exit code, through the real command line."""

import errno
import fcntl

import pytest
from click.testing import CliRunner

from vchat.base.cli import WrongUse
from vchat.prep.commands import main as cli
from vchat_testing.raw_data import write_coco, write_json, write_llava
from vchat_testing.toy import toy_tokenizer


@pytest.fixture
def folder(tmp_path):
    write_llava(tmp_path / "data", count=6)
    toy_tokenizer(tmp_path / "tokenizer")
    return tmp_path


def run(folder, *flags, **changed):
    """Run `vchat-prep build`; returns the exit code and the error that `main` would print."""
    given = {
        "--datasets": "llava",
        "--data": folder / "data",
        "--tokenizer": folder / "tokenizer",
        "--out": folder / "out",
        "--eval-fraction": 0,
    }
    given |= {f"--{name.replace('_', '-')}": value for name, value in changed.items()}
    arguments = [
        str(part) for name, value in given.items() if value is not None for part in (name, value)
    ]
    result = CliRunner().invoke(cli.group, ["build", *arguments, *flags])
    if isinstance(result.exception, WrongUse):
        return 2, str(result.exception), result.stdout
    if isinstance(result.exception, ValueError | OSError):
        return 1, str(result.exception), result.stdout
    assert result.exception is None, result.exception
    return result.exit_code, "", result.stdout


def test_a_build_prints_a_summary(folder):
    code, _, output = run(folder)
    assert code == 0
    assert "1 shards, 9 samples" in output
    assert "report: " in output


def test_a_dry_run_prints_the_plan_and_writes_no_shard(folder):
    code, _, output = run(folder, "--dry-run", eval_fraction=0.5)
    assert code == 0
    assert output.startswith("train: 1 shards, about ")
    assert "llava: 9 rows, 9 records, rejected rows none" in output
    assert not list(folder.rglob("*.tar"))


def test_a_missing_annotation_file_says_what_to_download(folder):
    (folder / "data/llava/detail_23k.json").unlink()
    code, error, _ = run(folder)
    assert code == 1
    assert "detail_23k.json is missing; download detail_23k.json from https://" in error


def test_a_missing_image_folder_says_what_to_download(folder):
    (folder / "data/coco").rename(folder / "data/elsewhere")
    code, error, _ = run(folder)
    assert code == 1
    assert "image folder" in error
    assert "train2017.zip" in error


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"datasets": "llva"}, "unknown data set 'llva'; did you mean 'llava'"),
        ({"datasets": "llava,llava"}, "data set 'llava' is named twice"),
        ({"datasets": "llava=x.json"}, "the name belongs to a known data set"),
        ({"datasets": None}, "no data sets"),
        ({"out": None}, "no output: give a folder or a URL"),
        ({"tokenizer": None}, "no tokenizer"),
        ({"shard_size": "many"}, "size 'many': want a number and KB, MB or GB"),
        ({"concatenate": "3,2"}, "2 numbers for 1 data sets"),
        ({"concatenate": "x"}, "want numbers such as 3,2,1"),
        ({"eval_fraction": 1.5}, "want 0 or more, below 1"),
        ({"image_size": 1}, "want at least 2 pixels"),
        ({"template": "caht"}, "unknown template 'caht'; did you mean 'chat'"),
    ],
)
def test_wrong_use_exits_with_two(folder, flags, message):
    code, error, _ = run(folder, **flags)
    assert code == 2, error
    assert message in error


def test_a_tokenizer_without_end_token_is_refused_before_any_work(folder):
    toy_tokenizer(folder / "endless", end=None)
    code, error, _ = run(folder, tokenizer=folder / "endless")
    assert code == 1
    assert "names no end token" in error


def test_truncated_json_names_file_and_byte(folder):
    path = folder / "data/llava/detail_23k.json"
    path.write_bytes(path.read_bytes()[:500])
    code, error, _ = run(folder)
    assert code == 1
    assert "detail_23k.json: the JSON ends in mid-value at byte 500" in error


def test_a_damaged_file_is_named_when_sources_are_converted_at_the_same_time(folder):
    path = folder / "data/llava/conversation_58k.json"
    path.write_bytes((folder / "data/llava/detail_23k.json").read_bytes()[:500])
    code, error, _ = run(folder, datasets="llava,llava_dial", workers=2)
    assert code == 1
    assert "conversation_58k.json: the JSON ends in mid-value at byte 500" in error


def test_a_misspelt_key_of_a_recipe_names_the_nearest(folder):
    (folder / "r.toml").write_text("sed = 3\n")
    code, error, _ = run(folder, recipe=folder / "r.toml")
    assert code == 2
    assert "unknown key 'sed'" in error
    assert "did you mean 'seed'" in error


def test_a_recipe_says_what_the_flags_say(folder):
    text = f"""
        data = "{folder / "data"}"
        tokenizer = "{folder / "tokenizer"}"
        eval_fraction = 0
        seed = 3
        [[source]]
        name = "llava"
        concatenate = 2
        limit = 4
        [image]
        size = 24
    """
    (folder / "r.toml").write_text(text)
    everything = {"datasets": None, "data": None, "tokenizer": None, "eval_fraction": None}
    _, _, by_recipe = run(folder, "--dry-run", recipe=folder / "r.toml", **everything)
    by_flags = run(folder, "--dry-run", seed=3, concatenate="2", limit=4, image_size=24)[2]
    assert by_recipe == by_flags
    assert "left out by the plan capped 5" in by_flags
    overridden = run(folder, "--dry-run", recipe=folder / "r.toml", seed=4)[2]
    assert overridden != by_recipe


def test_shards_without_a_record_of_their_build_are_not_overwritten(folder):
    (folder / "out").mkdir()
    (folder / "out/train-000000.tar").write_bytes(b"mine")
    code, error, _ = run(folder)
    assert code == 1
    assert "holds another build: its plan is unknown" in error
    assert (folder / "out/train-000000.tar").read_bytes() == b"mine"


def test_two_builds_in_one_folder_do_not_mix(folder):
    (folder / "out/.work").mkdir(parents=True)
    with (folder / "out/.work/lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, error, _ = run(folder)
    assert code == 1
    assert "another build is running" in error


def test_when_nothing_is_left_it_says_so(folder):
    write_coco(folder / "data", dict.fromkeys(range(1, 7), "text"))
    code, error, _ = run(folder)
    assert code == 1
    assert "no record is left" in error
    write_coco(folder / "data", dict.fromkeys(range(1, 7), "truncated"))
    code, error, _ = run(folder, out=folder / "other")
    assert code == 1
    assert "every record was rejected when it was decoded" in error


def test_a_full_disk_says_what_to_do_and_keeps_the_rest(folder, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("vchat.prep.pipeline.build.run_tasks", full)
        code, error, _ = run(folder)
    assert code == 1
    assert "free some and run the same command again; finished shards are kept" in error
    assert run(folder)[0] == 0


def test_own_data_is_named_on_the_command_line(folder):
    row = {"image": "coco/train2017/000000000001.jpg", "conversations": []}
    row["conversations"] = [
        {"from": "human", "value": "<image>\nQ?"},
        {"from": "gpt", "value": "A."},
    ]
    write_json(folder / "elsewhere/mine.json", [row])
    code, error, output = run(folder, datasets=f"mine={folder / 'elsewhere/mine.json'},llava")
    assert code == 0, error
    assert "mine: 1 rows, 1 records used" in output


def test_sources_lists_layout_and_licences():
    result = CliRunner().invoke(cli.group, ["sources"])
    assert result.exit_code == 0
    assert "llava/detail_23k.json" in result.stdout
    assert "licence: CC BY 4.0" in result.stdout
