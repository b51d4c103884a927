"""A build's shards: complete, correct, and the same bytes however they were made."""

import io
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vchat.prep.convert.images import ImagePolicy
from vchat.prep.convert.recipe import SourceChoice
from vchat.prep.pipeline.build import build_shards, recipe_output
from vchat.prep.pipeline.planning import plan_build
from vchat.prep.pipeline.work_folder import write_work_folder
from vchat.prep.tasks.local_engine import run_tasks
from vchat.shards.format.open_shards import open_shards
from vchat.shards.inspect.verification import find_defects
from vchat_testing.building import read_files, toy_recipe
from vchat_testing.raw_data import (
    COLORS,
    good_llava_row,
    llava_row,
    write_image,
    write_json,
    write_llava,
)


def write_mix(folder: Path, *, count: int = 40) -> None:
    """Write LLaVA data with photographs that cannot be decoded, and a dialogue that is too long."""
    data = folder / "data"
    write_llava(data, count=count)
    write_image(data / "coco/train2017/000000000003.jpg", "truncated")
    rows = [good_llava_row(number) for number in range(1, count + 1)]
    rows.append(llava_row(7, "<image>\nLong?", "word " * 3000))
    rows[-1]["id"] = "long"
    write_json(data / "llava/conversation_58k.json", rows)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A finished build of `write_mix`, with one worker."""
    folder = tmp_path_factory.mktemp("built")
    write_mix(folder)
    wanted = toy_recipe(folder, names=("llava", "llava_dial"))
    return folder, wanted, build_shards(wanted)


def test_every_record_is_in_the_shards_or_rejected(built):
    _, _, done = built
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


def test_samples_say_what_their_images_show(built):
    folder, _, _ = built
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
    assert len(keys) == sum(one["used_records"] for one in built[2].report["sources"].values())


def color_of(image) -> str:
    pixel = np.asarray(Image.open(io.BytesIO(image.data)))[18, 24].astype(int)
    known = [Image.new("RGB", (1, 1), name).getpixel((0, 0)) for name in COLORS]
    return COLORS[int(np.abs(np.array(known) - pixel).sum(axis=1).argmin())]


def test_no_photograph_is_on_both_sides(built):
    folder, _, _ = built
    shards = open_shards(folder / "out")
    sides = {
        split: {key for keys in shards.index(split)["image_keys"].to_pylist() for key in keys}
        for split in ("train", "eval")
    }
    assert sides["train"]
    assert sides["eval"]
    assert not sides["train"] & sides["eval"]


def test_stems_are_unique_and_increase_within_a_split(built):
    folder, _, _ = built
    shards = open_shards(folder / "out")
    for split in ("train", "eval"):
        stems = shards.index(split)["stem"].to_pylist()
        assert stems == sorted(set(stems))


@pytest.mark.parametrize("workers", [2, 4])
def test_several_workers_write_the_bytes_of_one(built, workers):
    folder, _, _ = built
    out = f"by-{workers}"
    build_shards(toy_recipe(folder, out=out, names=("llava", "llava_dial"), workers=workers))
    assert read_files(folder / out) == read_files(folder / "out")


def test_the_same_command_again_finds_the_build_complete(built):
    folder, wanted, first = built
    before = read_files(folder / "out")
    again = build_shards(wanted)
    assert again.was_complete
    assert again.report == first.report
    assert read_files(folder / "out") == before


def test_another_build_in_the_folder_is_refused_naming_both(built):
    folder, _, _ = built
    other = toy_recipe(folder, names=("llava", "llava_dial"), seed=5)
    digest = open_shards(folder / "out").manifest["digests"]["plan"]
    with pytest.raises(
        ValueError, match=f"holds another build: its plan is {digest[:16]}, the one"
    ):
        build_shards(other)


def test_a_manifest_names_no_path_of_the_machine(built):
    folder, _, _ = built
    for name in ("manifest.json", "report.json", "report.html"):
        assert str(folder) not in (folder / "out" / name).read_text()


def test_the_report_page_shows_sources_reasons_and_escapes(built):
    page = (built[0] / "out/report.html").read_text()
    for text in ("llava_dial", "too_long", "undecodable_image", "rounds per sample"):
        assert text in page


def test_a_plan_alone_writes_no_shard(built, tmp_path):
    folder, wanted, _ = built
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
def test_a_killed_build_goes_on_and_gives_the_same_bytes(built, workers, moments):
    folder, _, _ = built
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


def test_finished_shards_are_not_written_again(built, tmp_path):
    folder, _, _ = built
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
    built, tmp_path
):
    folder, _, _ = built
    half = toy_recipe(folder, names=("llava", "llava_dial"), out=str(tmp_path / "out"), workers=2)
    prepared = plan_build(half, work=tmp_path / "out/.work")
    write_work_folder(prepared, recipe_output(half))
    numbers = range(len(prepared.plan.shards))
    run_tasks(tmp_path / "out/.work", numbers, workers=1, on_dialogues=lambda count: None)
    build_shards(half)
    assert read_files(tmp_path / "out") == read_files(folder / "out")


def test_the_report_counts_what_the_index_says_by_source_and_split(built):
    folder, _, done = built
    rows = open_shards(folder / "out").index().to_pylist()
    lines = {(line["source"], line["split"]): line for line in done.report["blend"]}
    assert lines.keys() == {(row["source"], row["split"]) for row in rows}
    for (source, split), line in lines.items():
        mine = [row for row in rows if (row["source"], row["split"]) == (source, split)]
        assert line["samples"] == len(mine)
        assert line["concatenate"] == 2
        for name in ("records", "rounds", "images"):
            assert line[name] == sum(row[f"num_{name}"] for row in mine)
        for name in ("text_tokens", "supervised_tokens"):
            assert line[name] == sum(row[name] for row in mine)


def test_the_reports_histograms_count_every_sample_and_image_once(built):
    folder, _, done = built
    rows = open_shards(folder / "out").index().to_pylist()
    histograms = done.report["histograms"]
    sides = [min(pair) for row in rows for pair in pairs(row["image_original_sizes"])]
    assert histograms["records per sample"] == {
        str(n): sum(row["num_records"] == n for row in rows) for n in (1, 2)
    }
    assert histograms["shorter side of an original, pixels"] == {"32-63": len(sides)}
    assert set(sides) == {36}
    for low_high, count in histograms["text tokens per sample"].items():
        low, high = map(int, low_high.split("-"))
        assert count == sum(low <= row["text_tokens"] <= high for row in rows)


def pairs(flat):
    return list(zip(flat[::2], flat[1::2], strict=True))


def test_the_report_page_leads_from_a_count_to_its_reasons_and_names_licences(built):
    page = (built[0] / "out/report.html").read_text()
    assert 'href="#record-llava_dial"' in page
    assert 'id="record-llava_dial"' in page
    for licence in built[2].report["licences"].values():
        assert licence.split(";")[0] in page


def own_row(number: int, *images: int) -> dict[str, Any]:
    """Return a row of one's own data that shows some of the photographs of `write_llava`."""
    paths = [f"coco/train2017/{image:012d}.jpg" for image in images]
    row = llava_row(number, "<image>" * len(paths) + " What are they?", "Two pictures.")
    return row | {"id": str(number), "image": paths}


def test_records_that_the_plan_leaves_out_are_named_with_what_was_found(tmp_path):
    write_llava(tmp_path / "data", count=12)
    write_json(tmp_path / "pairs.json", [own_row(i, i, i % 12 + 1) for i in range(1, 13)])
    write_json(tmp_path / "wide.json", [own_row(1, 1, 2, 3)])
    own = (SourceChoice(name=one, file=str(tmp_path / f"{one}.json")) for one in ("pairs", "wide"))
    chosen = (SourceChoice(name="llava", limit=4), *own)
    done = build_shards(toy_recipe(tmp_path, source=chosen, max_images=2, eval_fraction=0.5))
    found = {name: one["rejected_later"] for name, one in done.report["sources"].items()}
    assert found["wide"]["examples"] == {"too_many_images": ["wide/1: 3 images, the limit is 2"]}
    assert found["llava"]["counts"]["capped"] == 14
    named = found["llava"]["examples"]["capped"]
    assert len(named) == 5
    assert named[0].endswith(": beyond the limit of 4 records")
    held_out = open_shards(tmp_path / "out").index("eval")["image_keys"].to_pylist()
    key, _, shown = found["pairs"]["examples"]["held_out_image"][0].partition(": shows ")
    assert shown in {one for keys in held_out for one in keys}
    number = int(key.removeprefix("pairs/"))
    assert shown in {f"coco:{number}", f"coco:{number % 12 + 1}"}


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
