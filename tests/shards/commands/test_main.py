"""`vchat-shards` as a user meets it: output, exit codes, one clear line for bad input."""

import json
import subprocess
import sys

import pytest

from vchat_testing.toy import toy_shards

CODE = (
    "import sys; from vchat.shards.commands.main import main; sys.argv[0] = 'vchat-shards'; main()"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toy_shards(tmp_path_factory.mktemp("cli") / "mix", num_samples=6).folder


def vchat_shards(*arguments: object, env: dict[str, str] | None = None):
    command = [sys.executable, "-c", CODE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=env)


def test_inspect_prints_a_line_per_source_and_split(folder):
    done = vchat_shards("inspect", folder)
    assert done.returncode == 0
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["source", "split", "samples", "records", "images"] in [line[:5] for line in lines]
    assert ["toy", "eval", "1", "1", "2"] in [line[:5] for line in lines]
    assert ["toy2", "train", "3", "3", "6"] in [line[:5] for line in lines]
    assert ["all", "8", "8", "16"] in [line[:4] for line in lines]
    assert "intact: all files are there" in done.stdout


def test_inspect_json_is_one_object_with_the_same_counts(folder):
    found = json.loads(vchat_shards("inspect", folder, "--json", "--split", "train").stdout)
    assert [(g["source"], g["samples"], g["images"]) for g in found["groups"]] == [
        ("toy", 3, 6),
        ("toy2", 3, 6),
    ]
    assert found["totals"]["samples"] == 6
    assert found["defects"] == []


def test_show_marks_what_is_supervised_even_without_colors(folder):
    done = vchat_shards("show", folder, 1, "--split", "train")
    assert done.returncode == 0
    assert "image 1: toy:10, 40x32 (from 80x64)" in done.stdout
    assert "### Image 2:\n<image: toy:11>" in done.stdout
    assert "### Answer:\n{+The square is blue.</s>+}" in done.stdout


def test_verify_says_how_much_it_read_and_finds_nothing(folder):
    done = vchat_shards("verify", folder)
    assert (done.returncode, done.stdout) == (0, "8 samples in 3 shards: no defects\n")


def test_verify_and_inspect_exit_with_1_where_something_is_wrong(tmp_path):
    broken = toy_shards(tmp_path / "broken", num_samples=2).folder
    (broken / "eval-000000.tar").unlink()
    for command in ("inspect", "verify"):
        done = vchat_shards(command, broken)
        assert done.returncode == 1
        assert "eval-000000.tar: file: found nothing, wanted" in done.stdout


def test_html_writes_where_it_is_told_and_says_so(folder, tmp_path):
    done = vchat_shards("html", folder, "--out", tmp_path / "page.html", "--num", 3)
    assert done.stdout == f"{tmp_path / 'page.html'}: 3 dialogues\n"
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count("<article") == 3


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["inspect", "nowhere"], "error: no folder nowhere; wanted a folder of shards"),
        (["verify", "FOLDER/tokenizer"], "error: no manifest.json in FOLDER/tokenizer: the build"),
        (["show", "FOLDER", "99"], "error: no sample 99; there are 8, numbered from 0"),
        (["show", "FOLDER", "0", "--split", "test"], "error: no split 'test' in FOLDER; it has"),
        (["html", "FOLDER", "--source", "lava"], "error: no source 'lava' in FOLDER; it has toy"),
    ],
)
def test_bad_input_gives_one_clear_line_and_exit_code_1(folder, arguments, message):
    done = vchat_shards(*(a.replace("FOLDER", str(folder)) for a in arguments))
    assert done.returncode == 1
    assert done.stderr.startswith(message.replace("FOLDER", str(folder)))
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_wrong_use_exits_with_2(folder):
    assert vchat_shards("show", folder).returncode == 2
    assert vchat_shards("inspekt", folder).returncode == 2
