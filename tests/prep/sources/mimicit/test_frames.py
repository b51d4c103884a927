"""MIMIC-IT's base64 sets: entries read = records + expected rejections; ids of both files match."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vchat.prep.raw.image_files import ImageFiles
from vchat.prep.sources.catalogue import SOURCES
from vchat_testing.converting import expect, run_source
from vchat_testing.mimicit_data import entry, picture, sd, write_set
from vchat_testing.raw_data import IMAGES, write_coco, write_json


def test_sd(tmp_path):
    urlsafe = picture("gif").replace("+", "-").replace("/", "_")
    images = {
        sd(1, 1): picture(),
        sd(1, 2): urlsafe[:40] + "\n" + urlsafe[40:],
        sd(2, 1): picture("palette"),
        sd(3, 1): picture("tiny"),
        sd(3, 2): picture(),
        sd(4, 1): "no base64!",
        sd(4, 2): picture(),
    }
    pair = (sd(1, 1), sd(1, 2))
    entries = {
        "SD_INS_1": entry(*pair, rel=["SD_INS_2", "SD_INS_9"]),
        "SD_INS_2": entry(*pair, answer="Also a man."),
        "SD_INS_3": entry(sd(2, 1), sd(2, 2)),
        "SD_INS_4": entry(sd(3, 1), sd(3, 2)),
        "SD_INS_5": entry(sd(4, 1), sd(4, 2)),
        "SD_INS_6": entry(sd(1, 1)),
        "SD_INS_7": entry(sd(1, 1), sd(1, 1)),
        "SD_INS_8": entry(sd(1, 1), "X_1"),
        "SD_INS_10": entry(*pair, answer=""),
        "SD_INS_11": {"instruction": "?", "answer": "!"},
    }
    write_set(tmp_path, "SD", entries, images)
    records, tally = run_source(SOURCES["otter_mimicit_sd"], tmp_path, work=tmp_path / "work")
    rejected = {
        "bad_id": 1,
        "bad_row": 1,
        "empty_text": 1,
        "missing_image": 1,
        "placeholder_mismatch": 2,
        "tiny_image": 1,
        "undecodable_image": 1,
    }
    expect(tally, records=1, rows=rejected)
    assert [round_.answer for round_ in records[0].rounds] == ["A car left.", "Also a man."]
    assert records[0].images[1].offset > 0


def test_sn_matches_ids_with_and_without_the_scan_and_keeps_the_order_of_rounds(tmp_path):
    def frame(scene, number, scan=""):
        return f"SN_IMG_{scene}{scan}_color_{number:06d}"

    images = {
        frame("scene0000", 0, "_00"): picture(),
        frame("scene0000", 100, "_00"): picture(),
        frame("scene0001", 0): picture(),
    }
    walk = [frame("scene0000", 0), frame("scene0000", 100)]
    entries = {
        "SN_INS_scene0000_activity0_round10": entry(*walk, answer="Last."),
        "SN_INS_scene0000_activity0_round0": entry(*walk, answer="First."),
        "SN_INS_scene0000_activity0_round2": entry(*walk, answer="Second."),
        "SN_INS_scene0000_activity1_round0": entry(*walk, answer="Another activity."),
        "SN_INS_scene0001_activity0_round0": entry(frame("scene0001", 0, "_00")),
        "SN_INS_scene0002_activity0_round0": entry(frame("scene0002", 0)),
        "SN_INS_other": entry(frame("scene0001", 0)),
    }
    write_set(tmp_path, "SN", entries, images)
    records, tally = run_source(SOURCES["otter_mimicit_sn"], tmp_path, work=tmp_path / "work")
    expect(tally, records=4, rows={"missing_image": 1})
    assert [round_.answer for round_ in records[0].rounds] == ["First.", "Second.", "Last."]
    assert tally["repairs"] == {"scan_inserted": 4, "scan_removed": 1}
    assert records[2].images[0].key == records[3].images[0].key


@pytest.mark.parametrize(
    "most, kept", [(8, [0, 2, 4, 6, 8, 10, 12, 15]), (2, [0, 15]), (1, [0]), (16, list(range(16)))]
)
def test_sn_keeps_evenly_spaced_frames_of_a_long_walk(tmp_path, most, kept):
    names = [f"SN_IMG_scene0000_00_color_{100 * frame:06d}" for frame in range(16)]
    images = {name: picture(number=number) for number, name in enumerate(names)}
    entries = {"SN_INS_scene0000_activity0_round0": entry(*names)}
    write_set(tmp_path, "SN", entries, images)
    source = SOURCES["otter_mimicit_sn"]
    (record,), tally = run_source(source, tmp_path, work=tmp_path / "work", max_images=most)
    shown = [int(image.key[-6:]) // 100 for image in record.images]
    assert shown == kept
    subsampled = ("subsampled_from_16",) if most < 16 else ()
    assert record.marks == ("resampled_224", *subsampled)
    assert tally["marks"] == dict.fromkeys(record.marks, 1)


def test_cgd_takes_the_stretched_pictures_where_coco_is_missing(tmp_path):
    images = {
        "CGD_IMG_000000000014": picture("gif"),
        "CGD_IMG_0000000000001417": picture("palette"),
        "not an id": picture(),
    }
    ids = ("CGD_IMG_0000000000000014", "CGD_IMG_000000001417")
    entries = {"I1": entry(*ids), "I2": entry(ids[0], "CGD_IMG_000000000099")}
    write_set(tmp_path, "CGD", entries, images)
    source = SOURCES["otter_mimicit_cgd"]
    (record,), tally = run_source(source, tmp_path, work=tmp_path / "work")
    expect(tally, records=1, rows={"missing_image": 1})
    assert [image.key for image in record.images] == ["coco:14", "coco:1417"]
    assert ImageFiles([tmp_path]).read(record.images[0]) == IMAGES["gif"](0)
    assert record.marks == ("resampled_224",)
    write_coco(tmp_path, {14: "good", 1417: "good"})
    (record,), _ = run_source(source, tmp_path, work=tmp_path / "work2")
    assert record.images[0].file == "coco/train2017/000000000014.jpg"
    assert record.marks == ()


def test_tvc_matches_doubled_clip_names(tmp_path):
    clip = "s01e02_seg01_clip_00"
    images = {
        f"TVC_IMG_castle_{clip}_00001": picture(),
        f"TVC_IMG_bbt_{clip}_00001": picture(),
        "TVC_IMG_bbt_s09e09_seg01_clip_00_00005": picture(),
    }
    entries = {
        "TVC_INS_1": entry(f"TVC_IMG_castle_{clip}_castle_{clip}_00001"),
        "TVC_INS_2": entry(f"TVC_IMG_{clip}_bbt_{clip}_1"),
        "TVC_INS_3": entry("TVC_IMG_s09e09_seg01_clip_00_s09e09_seg01_clip_00_00005"),
        "TVC_INS_4": entry(f"TVC_IMG_{clip}_{clip}_00001"),
        "TVC_INS_5": entry(f"TVC_IMG_castle_{clip}_00001"),
        "TVC_INS_6": entry(f"TVC_IMG_castle_{clip}_castle_{clip}_00002"),
        "TVC_INS_7": entry("TVC_IMG_unlike"),
    }
    write_set(tmp_path, "TVC", entries, images)
    records, tally = run_source(SOURCES["otter_mimicit_tvc"], tmp_path, work=tmp_path / "work")
    expect(tally, records=4, rows={"missing_image": 3})
    assert tally["repairs"] == {"clip_doubled": 2, "show_missing": 1}
    assert [record.images[0].key for record in records][:2] == [
        f"tvqa:castle/{clip}/1",
        f"tvqa:bbt/{clip}/1",
    ]


def test_vst(tmp_path):
    images = {f"VST_IMG_{number}": picture("exif") for number in range(5)}
    entries = {
        "VST_INS_1": entry(*images, instruction="Tell the story."),
        "VST_INS_2": entry("VST_IMG_0", "VST_IMG_expired"),
        "VST_INS_3": entry(),
    }
    write_set(tmp_path, "VST", entries, images)
    records, tally = run_source(SOURCES["otter_mimicit_vst"], tmp_path, work=tmp_path / "work")
    expect(tally, records=1, rows={"missing_image": 1, "placeholder_mismatch": 1})
    assert [image.key for image in records[0].images] == [f"flickr:{i}" for i in range(5)]


@pytest.mark.parametrize("packaging", ["base64", "hub", "hub_without_blank"])
def test_sd_in_parquet(tmp_path, packaging):
    folder = tmp_path / "MIMIC-IT/SD"
    ids = [sd(1, 1), sd(1, 2), sd(2, 1), sd(3, 1)]
    if packaging == "base64":
        frame = {"__index_level_0__": ids, "base64": [picture(number=i) for i in range(3)] + [None]}
    else:
        cells = [{"bytes": IMAGES["gif"](i), "path": None} for i in range(3)]
        frame = {"id": ids, "image": [*cells, None]}
    blank = "related_instructions" if packaging == "hub_without_blank" else "related instructions"
    rows = [
        {"id": "I1", "instruction": "Q1", "answer": "A1", "images": ids[:2], blank: ["I2"]},
        {"id": "I2", "instruction": "Q2", "answer": "A2", "images": ids[:2], blank: []},
        {"id": "I3", "instruction": "Q3", "answer": "A3", "images": [ids[2], sd(2, 2)], blank: []},
        {"id": "I4", "instruction": "Q4", "answer": "A4", "images": [ids[2], ids[3]], blank: []},
    ]
    folder.mkdir(parents=True)
    pq.write_table(pa.table(frame), folder / "SD_Images-0.parquet", row_group_size=2)
    pq.write_table(pa.Table.from_pylist(rows), folder / "SD_Instructions.parquet")
    records, tally = run_source(SOURCES["otter_mimicit_sd"], tmp_path, work=tmp_path / "work")
    expect(tally, records=1, rows={"missing_image": 1, "undecodable_image": 1})
    (record,) = records
    assert [round_.answer for round_ in record.rounds] == ["A1", "A2"]
    column = "base64" if packaging == "base64" else "image"
    assert record.images[1].member == f"1/{column}"
    kind = "good" if packaging == "base64" else "gif"
    assert ImageFiles([tmp_path]).read(record.images[1]) == IMAGES[kind](1)


def test_parquet_without_pictures_or_instructions_is_an_error(tmp_path):
    folder = tmp_path / "MIMIC-IT/SD"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"x": [1]}), folder / "a.parquet")
    with pytest.raises(ValueError, match="holds no instructions: want SD_instructions"):
        run_source(SOURCES["otter_mimicit_sd"], tmp_path, work=tmp_path / "work")
    rows = {"id": ["a"], "instruction": ["Q"], "answer": ["A"], "images": [["b", "c"]]}
    pq.write_table(pa.table(rows), folder / "b.parquet")
    with pytest.raises(ValueError, match="no Parquet beside it has a column image or base64"):
        run_source(SOURCES["otter_mimicit_sd"], tmp_path, work=tmp_path / "work")
    (folder / "c.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"c\.parquet: damaged Parquet file"):
        run_source(SOURCES["otter_mimicit_sd"], tmp_path, work=tmp_path / "work")


def test_a_train_file_says_what_belongs_together_where_the_entries_do_not(tmp_path):
    images = {sd(number, side): picture() for number in (1, 2) for side in (1, 2)}
    pair, other = (sd(1, 1), sd(1, 2)), (sd(2, 1), sd(2, 2))
    entries = {f"SD_INS_{number}": entry(*pair, answer=f"{number}.") for number in (1, 2, 3)}
    entries["SD_INS_4"] = entry(*other)
    write_set(tmp_path, "SD", entries, images)
    context = {"SD_INS_1": ["SD_INS_2", "SD_INS_4"], "SD_INS_9": [], "SD_INS_3": "none"}
    write_json(tmp_path / "MIMIC-IT/SD/SD_train.json", context)
    records, tally = run_source(SOURCES["otter_mimicit_sd"], tmp_path, work=tmp_path / "work")
    expect(tally, records=3, rows={})
    assert [len(record.rounds) for record in records] == [2, 1, 1]
