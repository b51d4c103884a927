"""MiniGPT-4: entries read = records + rejected entries, for exactly the expected reasons."""

from vchat.prep.sources.catalogue import SOURCES
from vchat_testing.converting import expect, expected, run_source
from vchat_testing.raw_data import write_image, write_json


def test_minigpt4(tmp_path):
    for name in ("17", "018"):
        write_image(tmp_path / f"cc_sbu_align/image/{name}.jpg")
    rows = [
        ({"image_id": "17", "caption": " The image shows a bridge. "}, None),
        ({"image_id": "018", "caption": "Zeros are kept."}, None),
        ({"image_id": 17, "caption": "A number, and a duplicate."}, "duplicate"),
        ({"image_id": "19", "caption": "Missing."}, "missing_image"),
        ({"image_id": "../17", "caption": "Climbs."}, "bad_id"),
        ({"image_id": "17", "caption": ""}, "empty_text"),
        ({"caption": "No id."}, "bad_id"),
        (None, "bad_row"),
    ]
    path = tmp_path / "cc_sbu_align/filter_cap.json"
    write_json(path, {"annotations": [row for row, _ in rows]})
    records, tally = run_source(SOURCES["minigpt4"], tmp_path, work=tmp_path / "work")
    count, reasons = expected(rows)
    expect(tally, records=count, rows=reasons)
    assert records[0].images[0].key == "cc_sbu:17"
    assert records[0].rounds[0].answer == "The image shows a bridge."
    assert records[1].images[0].file == "cc_sbu_align/image/018.jpg"
