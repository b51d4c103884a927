"""A picture is the same one however it is named and packed: its copies are on one side."""

from __future__ import annotations

import base64
import json
import shutil
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vchat.prep.convert.recipe import SourceChoice
from vchat.prep.convert.staged import read_rows
from vchat.prep.pipeline.array_build import TaskShare, plan_array_build, run_share
from vchat.prep.pipeline.build import build_shards, recipe_output
from vchat.prep.pipeline.planning import plan_build
from vchat.shards.format.open_shards import open_shards
from vchat_testing.building import toy_recipe
from vchat_testing.mimicit_data import entry, write_set
from vchat_testing.raw_data import encode_picture, llava_row, turns, write_json

NUM_PICTURES = 8
PLACES = {
    "pics/{}.jpg": "folder",
    "./pics/{}.jpg": "folder",
    "pics//{}.jpg": "folder",
    "pics/./{}.jpg": "folder",
    "pics/../pics/{}.jpg": "folder",
    "copies/{}.JPG": "folder",
    "linked/{}.jpg": "link",
    "zipped/{}.jpg": "zip",
    "zipped/.//{}.jpg": "zip",
    "packed/{}.jpg": "tar",
    "coco/train2017/{:012d}.jpg": "folder",
    "gqa/images/{}.jpg": "folder",
}
"""How an annotation spells a picture, and how it is packed."""

SAME_FILE = [place for place in PLACES if "pics" in place]


def picture(number: int) -> bytes:
    colors = np.random.default_rng(number).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return encode_picture(Image.fromarray(colors).resize((24, 18)))


PICTURES = [picture(number) for number in range(NUM_PICTURES)]


def write_pictures(data: Path) -> None:
    """Write every picture in every place of `PLACES`."""
    for place, packing in PLACES.items():
        if "/./" in place or "//" in place or ".." in place or place.startswith("."):
            continue
        names = [place.format(number) for number in range(NUM_PICTURES)]
        (data / place).parent.mkdir(parents=True, exist_ok=True)
        if packing == "link":
            for name, number in zip(names, range(NUM_PICTURES), strict=True):
                (data / name).symlink_to(f"there-{number}.jpg")
            names = [f"linked/there-{number}.jpg" for number in range(NUM_PICTURES)]
        for name, one in zip(names, PICTURES, strict=True):
            (data / name).write_bytes(one)
    with zipfile.ZipFile(data / "zipped.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((data / "zipped").iterdir()):
            archive.write(path, f"zipped/{path.name}")
    with tarfile.open(data / "packed.tar", "w") as tar:
        for path in sorted((data / "packed").iterdir()):
            tar.add(path, path.name)
    shutil.rmtree(data / "zipped")
    shutil.rmtree(data / "packed")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all pictures in all places, and a tokenizer beside it."""
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder / "data")
    toy_recipe(folder)
    return folder


@dataclass(frozen=True)
class OwnFile:
    """A file of one's own: its folder, its packaging, and the pictures that it shows."""

    folder: str
    packaging: str
    shown: list[tuple[str, int]]
    """Place and number of the picture of each entry."""


def write_own(data: Path, name: str, own: OwnFile) -> SourceChoice:
    """Write the file of a source of that name; return how a recipe names it."""
    texts = [turns("<image>\nWhat?", f"Answer {name} {i}.") for i in range(len(own.shown))]
    paths = [place.format(number) for place, number in own.shown]
    file = data / own.folder / f"{name}.{own.packaging}"
    file.parent.mkdir(exist_ok=True)
    if own.packaging == "parquet":
        names = ["image.jpg", None, "0.jpg", "1.jpg"]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        cells = [
            {"bytes": PICTURES[number], "path": names[i % 4]}
            for i, (_, number) in enumerate(own.shown)
        ]
        columns = {"image": pa.array(cells, kind), "conversations": texts}
        pq.write_table(pa.table(columns), file)
    else:
        rows = [
            {"image": path, "conversations": text} for path, text in zip(paths, texts, strict=True)
        ]
        lines = "\n".join(map(json.dumps, rows)) if own.packaging == "jsonl" else json.dumps(rows)
        file.write_text(lines)
    return SourceChoice(name=name, file=str(file), concatenate=2)


def write_known(data: Path, numbers: list[int]) -> None:
    """Write LLaVA about some pictures of COCO, and SD about copies of them in base64."""
    rows = [llava_row(number, "<image>\nWhat?", f"Known {number}.") for number in numbers]
    write_json(data / "llava/conversation_58k.json", rows)
    ids = {f"SD_IMG_{number:05d}_{side}": number for number in numbers for side in (1, 2)}
    texts = {
        one: base64.b64encode(PICTURES[(n + int(one[-1]) - 1) % NUM_PICTURES]).decode()
        for one, n in ids.items()
    }
    pairs = {f"SD_INS_{n:05d}": entry(f"SD_IMG_{n:05d}_1", f"SD_IMG_{n:05d}_2") for n in numbers}
    write_set(data, "SD", pairs, texts)


def sides_of_pictures(recipe, work: Path) -> dict[str, set[str]]:
    """Plan a build; return digest of each picture that it uses -> the sides it is on."""
    planned = plan_build(recipe, work=work)
    found: dict[str, set[str]] = {}
    staged = {one.source: one.path for one in planned.staged}
    for shard in planned.plan.shards:
        for row in planned.plan.table.slice(shard.start, shard.end - shard.start).to_pylist():
            for record in read_rows(staged[row["source"]], row["rows"], columns=("rounds",)):
                images = [image for one in record["rounds"] for image in one["images"]]
                for image in images:
                    name = image["digest"] or image["key"]
                    found.setdefault(name, set()).add(shard.split)
    return found


SHOWN = st.tuples(st.sampled_from(sorted(PLACES)), st.integers(0, NUM_PICTURES - 1))
OWN_FILES = st.lists(
    st.builds(
        OwnFile,
        folder=st.sampled_from([".", "notes"]),
        packaging=st.sampled_from(["json", "jsonl", "parquet"]),
        shown=st.lists(SHOWN, min_size=1, max_size=12),
    ),
    min_size=1,
    max_size=3,
)


def plan_own(pictures: Path, owns: list[OwnFile], known: list[int], **changed):
    """Write the sources, plan a build of them, and return the sides of all pictures."""
    with tempfile.TemporaryDirectory(dir=pictures) as name:
        data = Path(name) / "data"
        data.mkdir()
        for path in (pictures / "data").iterdir():
            (data / path.name).symlink_to(path)
        choices = [write_own(data, f"own{i}", own) for i, own in enumerate(owns)]
        if known:
            write_known(data, known)
            choices += [SourceChoice(name="llava_dial"), SourceChoice(name="otter_mimicit_sd")]
        recipe = toy_recipe(pictures, source=tuple(choices), data=str(data), **changed)
        return sides_of_pictures(recipe, Path(name) / "work")


@settings(max_examples=25, deadline=None)
@given(
    owns=OWN_FILES,
    known=st.lists(st.integers(0, NUM_PICTURES - 1), unique=True, max_size=4),
    seed=st.integers(0, 5),
)
def test_no_picture_is_on_both_sides(pictures, owns, known, seed):
    found = plan_own(pictures, owns, known, seed=seed, eval_fraction=0.4)
    assert all(len(sides) == 1 for sides in found.values())
    numbers = {number for own in owns for _, number in own.shown}
    assert not any(name.startswith("path:") for name in found)
    assert len(found) <= len(numbers | {n % NUM_PICTURES for k in known for n in (k, k + 1)})


@settings(max_examples=10, deadline=None)
@given(
    owns=st.lists(
        st.builds(
            OwnFile,
            folder=st.just("."),
            packaging=st.sampled_from(["json", "jsonl"]),
            shown=st.lists(
                st.tuples(st.sampled_from(SAME_FILE), st.integers(0, 7)), min_size=1, max_size=12
            ),
        ),
        min_size=2,
        max_size=3,
    ),
    seed=st.integers(0, 5),
)
def test_no_file_is_on_both_sides_if_pictures_are_known_by_path(pictures, owns, seed):
    found = plan_own(pictures, owns, [], seed=seed, eval_fraction=0.4, identity="path")
    assert all(len(sides) == 1 for sides in found.values())
    assert set(found) <= {f"path:pics/{number}.jpg" for number in range(NUM_PICTURES)}


def test_paths_of_known_collections_keep_their_keys_if_known_by_path(pictures):
    shown = [("coco/train2017/{:012d}.jpg", 1), ("gqa/images/{}.jpg", 2), ("copies/{}.JPG", 3)]
    owns = [OwnFile(folder=".", packaging="json", shown=shown)]
    found = plan_own(pictures, owns, [], eval_fraction=0.0, identity="path")
    assert set(found) == {"coco:1", "vg:2", "path:copies/3.JPG"}


def test_pictures_beside_a_file_and_from_the_data_folder_are_one_file(pictures, tmp_path):
    write_json(
        pictures / "data/pics/inside.json",
        [{"image": f"{n}.jpg", "conversations": turns("<image>\nQ?", "A.")} for n in range(8)],
    )
    outside = OwnFile(folder=".", packaging="json", shown=[("pics/{}.jpg", n) for n in range(8)])
    choice = write_own(pictures / "data", "outside", outside)
    inside = SourceChoice(name="inside", file=str(pictures / "data/pics/inside.json"))
    recipe = toy_recipe(
        pictures, source=(choice, inside), identity="path", eval_fraction=0.4, seed=1
    )
    found = sides_of_pictures(recipe, tmp_path)
    assert set(found) == {f"path:pics/{n}.jpg" for n in range(8)}
    assert all(len(sides) == 1 for sides in found.values())


def test_a_path_outside_the_data_folder_tells_no_folder_of_the_machine(pictures, tmp_path):
    (tmp_path / "far/pics").mkdir(parents=True)
    (tmp_path / "far/pics/1.jpg").write_bytes(PICTURES[1])
    rows = [{"image": "pics/1.jpg", "conversations": turns("<image>\nQ?", "A.")}]
    write_json(tmp_path / "far/mine.json", rows)
    choice = SourceChoice(name="mine", file=str(tmp_path / "far/mine.json"))
    recipe = toy_recipe(pictures, source=(choice,), identity="path", eval_fraction=0.0)
    (key,) = sides_of_pictures(recipe, tmp_path / "work")
    assert key.startswith("path:")
    assert key.endswith("/1.jpg")
    assert "far" not in key


def test_equal_names_in_parquet_are_different_pictures(pictures, tmp_path):
    shown = [("pics/{}.jpg", number) for number in (0, 1, 2, 3, 0)]
    own = OwnFile(folder=".", packaging="parquet", shown=shown)
    for identity in (None, "path"):
        found = plan_own(pictures, [own], [], eval_fraction=0.0, identity=identity)
        assert len(found) == 4


def test_built_sides_share_no_bytes_and_the_report_says_how_pictures_are_known(pictures, tmp_path):
    owns = [
        OwnFile(folder=".", packaging="json", shown=[("pics/{}.jpg", n) for n in range(8)]),
        OwnFile(folder=".", packaging="jsonl", shown=[("./pics/{}.jpg", n) for n in range(8)]),
        OwnFile(folder=".", packaging="parquet", shown=[("copies/{}.JPG", n) for n in range(8)]),
    ]
    data = tmp_path / "data"
    data.mkdir()
    for path in (pictures / "data").iterdir():
        (data / path.name).symlink_to(path)
    choices = tuple(write_own(data, f"own{i}", own) for i, own in enumerate(owns))
    recipe = toy_recipe(pictures, source=choices, data=str(data), out=str(tmp_path / "out"))
    done = build_shards(replace(recipe, eval_fraction=0.4))
    index = open_shards(tmp_path / "out").index().to_pylist()
    stored = {"train": set(), "eval": set()}
    for row in index:
        images = [m["xxh3"] for m in row["members"] if m["name"].endswith(".jpg")]
        stored[row["split"]] |= set(images)
        assert all(key.startswith("xxh3:") for key in row["image_keys"])
    assert stored["train"]
    assert stored["eval"]
    assert not stored["train"] & stored["eval"]
    for one in done.report["sources"].values():
        assert one["converted"]["identity"] == one["converted"]["compared"] == {"bytes": 8}
    page = (tmp_path / "out/report.html").read_text()
    assert "by the digest of their bytes" in page


def own_rows(numbers):
    return [
        {"image": f"pics/deep/{n}.jpg", "conversations": turns("<image>\nQ?", f"A {n}.")}
        for n in numbers
    ]


def write_files(folder: Path, numbers) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / f"{number}.jpg").write_bytes(PICTURES[number])


def build_own(folder: Path, out: str = "out"):
    choice = SourceChoice(name="mine", file=str(folder / "data/mine.json"))
    recipe = toy_recipe(folder, source=(choice,), eval_fraction=0.0, out=out)
    return build_shards(recipe).report["sources"]["mine"]


def test_missing_pictures_that_are_added_are_used(tmp_path):
    write_json(tmp_path / "data/mine.json", own_rows(range(6)))
    write_files(tmp_path / "data/pics/deep", range(4))
    before = build_own(tmp_path)
    assert before["converted"]["rejected_rows"]["counts"] == {"missing_image": 2}
    write_files(tmp_path / "data/pics/deep", (4, 5))
    with pytest.raises(ValueError, match=r"holds another build: .* choose another --out, or del"):
        build_own(tmp_path)
    for path in (tmp_path / "out").glob("[!.]*"):
        path.unlink() if path.is_file() else shutil.rmtree(path)
    assert (tmp_path / "out/.work/staged").is_dir()
    after = build_own(tmp_path)
    assert after["converted"]["rejected_rows"]["counts"] == {}
    assert after["used_records"] == 6


def test_an_archive_that_is_added_is_used(tmp_path):
    write_json(tmp_path / "data/mine.json", own_rows(range(3)))
    write_files(tmp_path / "data/pics/deep", [0])
    recipe = toy_recipe(tmp_path, eval_fraction=0.0)
    choice = SourceChoice(name="mine", file=str(tmp_path / "data/mine.json"))
    recipe = replace(recipe, source=(choice,))
    staged = plan_build(recipe, work=tmp_path / "work").staged
    assert staged[0].tally["records"] == 1
    for count in (2, 3):
        with zipfile.ZipFile(tmp_path / "data/pics/deep.zip", "w") as archive:
            for number in range(count):
                archive.writestr(f"{number}.jpg", PICTURES[number])
        staged = plan_build(recipe, work=tmp_path / "work").staged
        assert staged[0].tally["records"] == count


def test_a_picture_that_is_replaced_in_its_place_is_another_picture(tmp_path):
    write_json(tmp_path / "data/mine.json", own_rows(range(2)))
    write_files(tmp_path / "data/pics/deep", range(2))
    choice = SourceChoice(name="mine", file=str(tmp_path / "data/mine.json"))
    recipe = replace(toy_recipe(tmp_path, eval_fraction=0.4), source=(choice,))
    before = sides_of_pictures(recipe, tmp_path / "work")
    (tmp_path / "data/pics/deep/1.jpg").write_bytes(PICTURES[0])
    after = sides_of_pictures(recipe, tmp_path / "work")
    assert len(before) == 2
    assert len(after) == 1


def test_a_picture_that_changes_after_the_plan_ends_the_task(tmp_path):
    write_json(tmp_path / "data/mine.json", own_rows(range(2)))
    write_files(tmp_path / "data/pics/deep", range(2))
    choice = SourceChoice(name="mine", file=str(tmp_path / "data/mine.json"))
    recipe = replace(toy_recipe(tmp_path, eval_fraction=0.0), source=(choice,))
    plan_array_build(recipe)
    (tmp_path / "data/pics/deep/1.jpg").write_bytes(PICTURES[0])
    with pytest.raises(OSError, match=r"pics/deep/1.jpg: the picture has changed since the plan"):
        run_share(recipe_output(recipe), TaskShare(number=0, of=1))


def test_a_picture_that_goes_is_missing(tmp_path):
    write_json(tmp_path / "data/mine.json", own_rows(range(2)))
    write_files(tmp_path / "data/pics/deep", range(2))
    choice = SourceChoice(name="mine", file=str(tmp_path / "data/mine.json"))
    recipe = replace(toy_recipe(tmp_path, eval_fraction=0.0), source=(choice,))
    assert len(sides_of_pictures(recipe, tmp_path / "work")) == 2
    (tmp_path / "data/pics/deep/1.jpg").unlink()
    assert len(sides_of_pictures(recipe, tmp_path / "work")) == 1


def test_pictures_added_in_a_sub_folder_of_a_known_data_set_are_used(tmp_path):
    data = tmp_path / "data"
    rows = [
        {
            "id": str(n),
            "image": f"gqa/images/more/{n}.jpg",
            "conversations": turns("<image>\nQ?", f"A {n}."),
        }
        for n in range(3)
    ]
    write_json(data / "llava/llava_v1_5_mix665k.json", rows)
    for name in ("coco/train2017", "ocr_vqa/images", "textvqa/train_images"):
        (data / name).mkdir(parents=True)
    write_files(data / "gqa/images/more", [0])
    choice = SourceChoice(name="llava_v1_5_mix665k")
    recipe = replace(toy_recipe(tmp_path, eval_fraction=0.0), source=(choice,))
    assert plan_build(recipe, work=tmp_path / "w").staged[0].tally["records"] == 1
    write_files(data / "gqa/images/more", [1, 2])
    assert plan_build(recipe, work=tmp_path / "w").staged[0].tally["records"] == 3


def test_records_are_not_converted_again_if_nothing_changed(tmp_path):
    write_json(tmp_path / "data/mine.json", own_rows(range(4)))
    write_files(tmp_path / "data/pics/deep", range(2))
    choice = SourceChoice(name="mine", file=str(tmp_path / "data/mine.json"))
    recipe = replace(toy_recipe(tmp_path, eval_fraction=0.0), source=(choice,))
    first = plan_build(recipe, work=tmp_path / "work")
    written = first.staged[0].path.stat().st_mtime_ns
    (tmp_path / "data/pics/deep/unrelated.txt").write_text("x")
    second = plan_build(recipe, work=tmp_path / "work")
    assert second.staged[0].path.stat().st_mtime_ns == written
    assert second.plan.digest == first.plan.digest
