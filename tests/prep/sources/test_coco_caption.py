"""COCO captions: entries read = records + rejected entries, for exactly the expected reasons."""

from vchat.prep.sources.catalogue import SOURCES
from vchat_testing.converting import expect, run_source
from vchat_testing.raw_data import write_coco, write_image, write_json


def photo(number, *captions, split="train", release="train2014", **changed):
    sentences = [{"raw": raw, "sentid": 10 * number + i} for i, raw in enumerate(captions)]
    name = f"COCO_{release}_{number:012d}.jpg"
    found = {"filepath": release, "filename": name, "split": split, "sentences": sentences}
    return {**found, "cocoid": number, **changed}


def test_coco_caption(tmp_path):
    write_image(tmp_path / "coco/2014/COCO_train2014_000000000001.jpg")
    write_image(tmp_path / "coco/val2014/COCO_val2014_000000000002.jpg")
    write_coco(tmp_path, {3: "good"})
    images = [
        photo(1, "A red boat. \n", "a boat", "A BOAT ON WATER"),
        photo(2, "Two.", "", split="restval", release="val2014"),
        photo(3, "Under its 2017 name."),
        photo(4, "Missing.", "Twice."),
        photo(5, "Held back.", split="test", release="val2014"),
        photo(6, "Held back.", split="val"),
        photo(1, sentences={"raw": "One object.", "sentid": 99}),
        photo(1, sentences=[]),
        photo(1, "A name of another kind.", filename="boat.jpg"),
        "no object",
    ]
    write_json(tmp_path / "coco_caption/dataset.json", {"images": images, "dataset": "coco"})
    records, tally = run_source(SOURCES["coco_caption"], tmp_path, work=tmp_path / "work")
    rejected = {
        "bad_id": 1,
        "bad_row": 1,
        "empty_text": 2,
        "missing_image": 2,
        "wrong_split": 2,
    }
    expect(tally, records=6, rows=rejected)
    answers = [record.rounds[0].answer for record in records]
    assert answers[:3] == ["A red boat.", "a boat.", "A boat on water."]
    assert {image.key for record in records for image in record.images} == {
        "coco:1",
        "coco:2",
        "coco:3",
    }
    assert records[0].key == "coco_caption/10"
