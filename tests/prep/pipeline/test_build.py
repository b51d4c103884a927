"""A build's shards: complete, correct, and the same bytes however they were made."""

import io
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vchat.prep.convert.images import ImagePolicy
from vchat.prep.pipeline.build import build_shards, recipe_output
from vchat.prep.pipeline.planning import plan_build
from vchat.prep.pipeline.work_folder import write_work_folder
from vchat.prep.tasks.local_engine import run_tasks
from vchat.shards.format.open_shards import open_shards
from vchat.shards.inspect.verification import find_defects
from vchat_testing.building import read_files, toy_recipe
from vchat_testing.raw_data import (
    COLORS,
    write_llava,
)


def test_every_record_is_in_the_shards_or_rejected(mix_build):
    _, _, done = mix_build
    sources = done.report["sources"]
    assert sources["llava"]["rejected_later"]["counts"].keys() <= {
        "undecodable_image",
        "held_out_image",
    }
    assert sources["llava"]["rejected_later"]["counts"]["undecodable_image"] == 2
    assert sources["llava_dial"]["rejected_later"]["counts"]["too_long"] == 1
    assert sources["llava_dial"]["rejected_later"]["counts"]["undecodable_image"] == 1
    for one in sources.values():
        later = sum(one["rejected_later"]["counts"].values())
        assert one["used_records"] + later == one["converted"]["records"]
        assert one["rejected_later"]["examples"].keys() == one["rejected_later"]["counts"].keys()
    (example,) = sources["llava_dial"]["rejected_later"]["examples"]["too_long"]
    assert example.startswith("llava_dial/conversation_58k/long: round 1 takes")


def test_samples_say_what_their_images_show(mix_build):
    folder, _, _ = mix_build
    shards = open_shards(folder / "out")
    tokenizer = shards.tokenizer()
    keys = set()
    for row in shards.index().to_pylist():
        sample = shards.read_sample(row)
        supervised = tokenizer.decode(sample.ids[sample.supervised].tolist())
        assert supervised == "".join(round_.answer + "</s>" for round_ in sample.rounds)
        assert (sample.ids == tokenizer.image_id).sum() == len(sample.images)
        for round_ in sample.rounds:
            (number,) = round_.images
            assert round_.answer == f"The picture is {color_of(sample.images[number])}."
        keys |= {record.key for record in sample.records}
    assert len(keys) == sum(one["used_records"] for one in mix_build[2].report["sources"].values())


def color_of(image) -> str:
    pixel = np.asarray(Image.open(io.BytesIO(image.data)))[18, 24].astype(int)
    known = [Image.new("RGB", (1, 1), name).getpixel((0, 0)) for name in COLORS]
    return COLORS[int(np.abs(np.array(known) - pixel).sum(axis=1).argmin())]


def test_no_photograph_is_on_both_sides(mix_build):
    folder, _, _ = mix_build
    shards = open_shards(folder / "out")
    sides = {
        split: {key for keys in shards.index(split)["image_keys"].to_pylist() for key in keys}
        for split in ("train", "eval")
    }
    assert sides["train"]
    assert sides["eval"]
    assert not sides["train"] & sides["eval"]


def test_stems_are_unique_over_the_set_and_increase(mix_build):
    folder, _, _ = mix_build
    shards = open_shards(folder / "out")
    stems = [stem for s in ("train", "eval") for stem in shards.index(s)["stem"].to_pylist()]
    assert stems == sorted(set(stems))


@pytest.mark.parametrize("workers", [2, 4])
def test_several_workers_write_the_bytes_of_one(mix_build, workers):
    folder, _, _ = mix_build
    out = f"by-{workers}"
    build_shards(toy_recipe(folder, out=out, names=("llava", "llava_dial"), workers=workers))
    assert read_files(folder / out) == read_files(folder / "out")


def test_the_same_command_again_finds_the_build_complete(mix_build):
    folder, wanted, first = mix_build
    before = read_files(folder / "out")
    again = build_shards(wanted)
    assert again.was_complete
    assert again.report == first.report
    assert read_files(folder / "out") == before


def test_another_build_in_the_folder_is_refused_naming_both(mix_build):
    folder, _, _ = mix_build
    other = toy_recipe(folder, names=("llava", "llava_dial"), seed=5)
    digest = open_shards(folder / "out").manifest["digests"]["plan"]
    with pytest.raises(
        ValueError, match=f"holds another build: its plan is {digest[:16]}, the one"
    ):
        build_shards(other)


def test_a_manifest_names_no_path_of_the_machine(mix_build):
    folder, _, _ = mix_build
    for name in ("manifest.json", "report.json", "report.html"):
        assert str(folder) not in (folder / "out" / name).read_text()


def test_a_plan_alone_writes_no_shard(mix_build, tmp_path):
    folder, wanted, _ = mix_build
    plan = plan_build(wanted, work=tmp_path).plan
    assert plan.digest == open_shards(folder / "out").manifest["digests"]["plan"]
    assert not list(tmp_path.rglob("*.tar"))


def start_build(folder: Path, *, workers: int) -> subprocess.Popen[bytes]:
    """Start the real command in a process group of its own."""
    arguments = [
        *(
            sys.executable,
            "-m",
            "vchat.prep.commands.main",
            "build",
            "--datasets",
            "llava,llava_dial",
        ),
        *(
            "--data",
            folder / "data",
            "--tokenizer",
            folder / "tokenizer",
            "--out",
            folder / "killed",
        ),
        *("--concatenate", "2", "--eval-fraction", "0.25", "--shard-size", "12KB"),
        *("--positions-per-image", "5", "--image-size", "24", "--workers", str(workers)),
    ]
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.parametrize("workers, moments", [(1, (3,)), (2, (4,))])
def test_a_killed_build_goes_on_and_gives_the_same_bytes(mix_build, workers, moments):
    folder, _, _ = mix_build
    out = folder / "killed"
    shutil.rmtree(out, ignore_errors=True)
    seen = set()
    for moment in moments:
        process = start_build(folder, workers=workers)
        while process.poll() is None and num_results(out) < moment:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (out / "manifest.json").exists(), "the build ended before it was killed"
        seen.add(num_results(out))
    assert max(seen) > 0, "every kill came before the first shard"
    process = start_build(folder, workers=workers)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert read_files(out) == read_files(folder / "out")


def num_results(out: Path) -> int:
    return len(list((out / ".work/results").glob("*.json")))


def test_finished_shards_are_not_written_again(mix_build, tmp_path):
    folder, _, _ = mix_build
    work, out = tmp_path / "out/.work", tmp_path / "out"
    half = toy_recipe(folder, names=("llava", "llava_dial"), out=str(out))
    prepared = plan_build(half, work=work)
    write_work_folder(prepared, recipe_output(half))
    run_tasks(work, [0, 2], workers=1, on_dialogues=lambda count: None)
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    build_shards(half)
    assert len(stamps) == 2
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert read_files(out) == read_files(folder / "out")


def test_a_build_that_was_killed_before_it_published_is_finished_by_several_workers(
    mix_build, tmp_path
):
    folder, _, _ = mix_build
    half = toy_recipe(folder, names=("llava", "llava_dial"), out=str(tmp_path / "out"), workers=2)
    prepared = plan_build(half, work=tmp_path / "out/.work")
    write_work_folder(prepared, recipe_output(half))
    numbers = range(len(prepared.plan.shards))
    run_tasks(tmp_path / "out/.work", numbers, workers=1, on_dialogues=lambda count: None)
    build_shards(half)
    assert read_files(tmp_path / "out") == read_files(folder / "out")


@pytest.mark.parametrize("size, image_size", [((20_000, 20), 24), ((500, 20_000), 448)])
def test_a_picture_that_no_reader_would_decode_is_rejected_by_its_header(
    tmp_path, size, image_size
):
    write_llava(tmp_path / "data", count=8)
    picture = tmp_path / "data/coco/train2017/000000000003.jpg"
    Image.new("L", size).save(picture)
    done = build_shards(toy_recipe(tmp_path, image=ImagePolicy(size=image_size)))
    converted = done.report["sources"]["llava"]["converted"]
    assert converted["rejected_rows"]["counts"].keys() == {"huge_image"}
    (example, *_) = converted["rejected_rows"]["examples"]["huge_image"]
    assert "at most 16384 a side" in example


def test_a_long_picture_is_stored_where_it_is_made_small_enough(tmp_path):
    write_llava(tmp_path / "data", count=8)
    Image.new("L", (500, 20_000)).save(tmp_path / "data/coco/train2017/000000000003.jpg")
    done = build_shards(toy_recipe(tmp_path))
    assert done.report["sources"]["llava"]["converted"]["rejected_rows"]["counts"] == {}
    assert list(find_defects(open_shards(tmp_path / "out"), shard_done=lambda _: None)) == []
