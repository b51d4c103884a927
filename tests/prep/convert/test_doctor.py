"""The doctor's findings agree with what a build of the same data would do."""

import base64
import json
import subprocess
import sys

import pytest

from vchat.prep.convert.doctor import compare_count, examine_source, find_missing_parts
from vchat.prep.convert.recipe import Recipe, SourceChoice
from vchat.prep.convert.resolve import resolve_source
from vchat.prep.sources.source import KnownCount
from vchat_testing.raw_data import (
    IMAGES,
    good_llava_row,
    write_coco,
    write_image,
    write_json,
    write_llava,
)


def finding(data, name, *, sample=100, max_images=8):
    one = resolve_source(SourceChoice(name=name), recipe=Recipe(data=str(data)))
    return examine_source(one, sample=sample, max_images=max_images, on_entry=lambda: None)


def test_losses_formats_and_counts_of_a_source(tmp_path):
    write_llava(tmp_path, count=8)
    for number, kind in {2: "gif", 7: "truncated", 8: "tiny"}.items():
        write_image(tmp_path / f"coco/train2017/{number:012d}.jpg", kind, number=number)
    (tmp_path / "coco/train2017/000000000006.jpg").unlink()
    found = finding(tmp_path, "llava")
    assert found.status == "ready"
    assert found.comparison == "12 of 99883 rows"
    assert found.estimate_losses() == {
        "missing_image": 1,
        "tiny_image": 1,
        "undecodable_image": 1,
    }
    assert found.trial.num_records == 9
    assert found.trial.formats == {"JPEG": 9, "GIF": 2}
    assert [need.packaging for need in found.needs] == ["JSON", "JSON", "folder"]


def test_losses_of_a_sample_are_projected_to_all_rows(tmp_path):
    write_llava(tmp_path, count=40, images=False)
    write_coco(tmp_path, dict.fromkeys(range(1, 41), "tiny") | {1: "good", 2: "good"})
    found = finding(tmp_path, "llava", sample=30)
    assert (found.num_entries, found.trial.num_entries) == (60, 30)
    assert found.estimate_losses()["tiny_image"] == 2 * found.trial.rejected["tiny_image"]


def test_id_repairs_and_the_image_limit_are_reported(tmp_path):
    write_coco(tmp_path, {14: "good", 1417: "good"})
    entry = {
        "instruction": "What differs?",
        "answer": "A boat.",
        "image_ids": ["CGD_IMG_0000000000000014", "CGD_IMG_000000001417"],
        "rel_ins_ids": [],
    }
    write_json(tmp_path / "MIMIC-IT/CGD/CGD_instructions.json", {"data": {"I1": entry}})
    assert finding(tmp_path, "otter_mimicit_cgd").trial.repairs == {"long_id": 1}
    limited = finding(tmp_path, "otter_mimicit_cgd", max_images=1)
    assert limited.status == "broken"
    assert "none of 1 rows tried is usable: too_many_images" in limited.problem


def test_images_that_a_record_may_leave_out_are_no_loss(tmp_path):
    names = [f"SN_IMG_scene0000_color_{frame:06d}" for frame in range(12)]
    entry = {"instruction": "Where?", "answer": "Here.", "image_ids": names, "rel_ins_ids": []}
    entries = {"data": {"SN_INS_scene0000_activity0_round0": entry}}
    write_json(tmp_path / "MIMIC-IT/SN/SN_instructions.json", entries)
    picture = base64.b64encode(IMAGES["palette"](0)).decode()
    found = {name.replace("scene0000", "scene0000_00"): picture for name in names}
    write_json(tmp_path / "MIMIC-IT/SN/SN.json", found)
    sampled = finding(tmp_path, "otter_mimicit_sn").trial
    assert (sampled.num_records, sampled.num_images, sampled.repairs["scan_inserted"]) == (
        1,
        12,
        12,
    )
    assert sampled.formats == {"PNG": 8}


def test_what_is_missing_comes_with_how_to_get_it(tmp_path):
    write_llava(tmp_path, images=False)
    found = finding(tmp_path, "llava")
    assert found.status == "missing"
    assert "train2017.zip" in found.problem
    assert [bool(need.paths) for need in found.needs] == [True, True, False]


def test_a_damaged_annotation_file_is_broken(tmp_path):
    write_llava(tmp_path)
    (tmp_path / "llava/detail_23k.json").write_text('[{"id": "1"')
    found = finding(tmp_path, "llava")
    assert found.status == "broken"
    assert "the file is truncated" in found.problem


@pytest.mark.parametrize(
    "known, rows, said",
    [
        (KnownCount(number=10, of="rows"), 10, "all 10 rows"),
        (KnownCount(number=10, of="rows"), 9, "9 of 10 rows"),
        (KnownCount(number=1000, of="rows", is_exact=False), 990, "990 rows"),
        (KnownCount(number=1000, of="rows", is_exact=False), 9, "9 rows, expected about 1000"),
        (None, 9, ""),
    ],
)
def test_counts_are_compared(known, rows, said):
    assert compare_count(known, num_entries=rows, num_pairs=0) == said


def test_gaps_in_a_sequence_of_files_are_named():
    names = ["a-00000-of-00003.parquet", "a-00002-of-00003.parquet", "other.parquet"]
    assert find_missing_parts(names) == ["a-00001-of-00003.parquet"]


def doctor(*arguments):
    command = [sys.executable, "-m", "vchat.prep.commands.main", "doctor", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_data_folder_that_is_not_there_is_wrong_use(tmp_path):
    done = doctor("--data", tmp_path / "none")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].endswith("none: there is no such folder, or nothing in it")


def test_the_command_prints_json_and_fails_only_for_named_data_sets(tmp_path):
    write_llava(tmp_path / "data")
    write_image(tmp_path / "photos/one.jpg")
    row = {**good_llava_row(1), "image": "one.jpg"}
    write_json(tmp_path / "photos/mine.json", [row])
    done = doctor("--data", tmp_path / "data")
    assert done.returncode == 0, done.stderr
    assert "otter_mimicit_tvc" in done.stdout
    named = f"llava,mine={tmp_path / 'photos/mine.json'}"
    done = doctor("--data", tmp_path / "data", "--datasets", named, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [found[name]["status"] for name in ("llava", "mine")] == ["ready", "ready"]
    done = doctor("--data", tmp_path / "data", "--datasets", "llava,llava_dial")
    assert done.returncode == 1
    assert "cannot be built: llava_dial" in done.stderr
    assert "download conversation_58k.json" in done.stdout
