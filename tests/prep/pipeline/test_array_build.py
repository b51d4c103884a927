"""Plan once, write shares in any order, finish: the bytes of a plain build."""

import subprocess
import sys

import pytest

from vchat.base.cli import WrongUse
from vchat.prep.pipeline.array_build import (
    finish_array_build,
    parse_share,
    plan_array_build,
    run_share,
)
from vchat.prep.pipeline.build import build_shards
from vchat.prep.pipeline.publication import PUBLICATION
from vchat.prep.tasks.output import Output
from vchat_testing.building import read_files, toy_recipe
from vchat_testing.raw_data import write_image, write_llava
from vchat_testing.toy import toy_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data with one photograph that cannot be decoded, and a plain build of it in `plain`."""
    folder = tmp_path_factory.mktemp("array")
    write_llava(folder / "data", count=30)
    write_image(folder / "data/coco/train2017/000000000003.jpg", "truncated")
    toy_tokenizer(folder / "tokenizer")
    build_shards(toy_recipe(folder, out="plain", eval_fraction=0.2))
    return folder


def test_shares_in_any_order_give_the_bytes_of_a_plain_build(folder):
    out = folder / "shares"
    prepared = plan_array_build(toy_recipe(folder, out="shares", eval_fraction=0.2))
    num_shards = len(prepared.plan.shards)
    assert num_shards > 3
    written = [run_share(Output(folder=out), parse_share(f"{i}/3")) for i in (2, 0, 1)]
    assert sum(written) == num_shards
    assert run_share(Output(folder=out), parse_share("1/3")) == 0
    plan_array_build(toy_recipe(folder, out="shares", eval_fraction=0.2))
    finish_array_build(Output(folder=out))
    assert read_files(out) == read_files(folder / "plain")


def test_a_second_finish_changes_nothing(folder):
    before = {path: path.stat().st_mtime_ns for path in (folder / "plain").rglob("*")}
    assert finish_array_build(Output(folder=folder / "plain")).was_complete
    assert {path: path.stat().st_mtime_ns for path in (folder / "plain").rglob("*")} == before
    assert run_share(Output(folder=folder / "plain"), parse_share("0/1")) == 0


def test_finish_names_a_missing_shard_and_publishes_nothing(folder):
    out = folder / "half"
    plan_array_build(toy_recipe(folder, out="half", eval_fraction=0.2))
    run_share(Output(folder=out), parse_share("0/1"))
    (out / "train-000001.tar").unlink()
    with pytest.raises(ValueError, match=r"1 of \d+ shards are not in .*: train-000001\.tar; run"):
        finish_array_build(Output(folder=out))
    assert not (out / "manifest.json").exists()
    run_share(Output(folder=out), parse_share("1/2"))
    finish_array_build(Output(folder=out))
    assert read_files(out) == read_files(folder / "plain")


def test_without_a_plan_a_task_says_how_to_make_one(folder):
    with pytest.raises(ValueError, match=r"no plan in .*empty: make one with `vchat-prep plan"):
        run_share(Output(folder=folder / "empty"), parse_share("0/2"))
    plan_array_build(toy_recipe(folder, out="cut", eval_fraction=0.2))
    (folder / "cut/.work" / PUBLICATION).unlink()
    with pytest.raises(ValueError, match="no plan in"):
        finish_array_build(Output(folder=folder / "cut"))


@pytest.mark.parametrize("text", ["2/2", "1", "a/b", "-1/2", "0/0"])
def test_a_share_that_cannot_be_meant_is_wrong_use(text):
    with pytest.raises(WrongUse, match="want i/n with i from 0 to n - 1"):
        parse_share(text)


def prep(*arguments):
    command = [sys.executable, "-m", "vchat.prep.commands.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_three_commands(folder):
    out = ("--out", folder / "commands")
    data = ("--data", folder / "data", "--tokenizer", folder / "tokenizer")
    done = prep("plan", "--datasets", "llava", *data, *out, "--positions-per-image", 5)
    assert done.returncode == 0, done.stderr
    assert "--task I/N" in done.stdout
    refused = prep("build", *out, "--task", "0/1", "--seed", 3)
    assert refused.returncode == 2
    assert "--seed cannot be used with --task" in refused.stderr
    done = prep("build", *out, "--task", "0/1")
    assert done.returncode == 0, done.stderr
    assert prep("finish", *out).returncode == 0
    again = prep("finish", *out)
    assert again.returncode == 0
    assert "complete" in again.stdout
