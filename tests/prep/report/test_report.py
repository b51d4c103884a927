"""The report counts what the shards hold and names what was lost; its page shows both."""

from typing import Any

from vchat.prep.convert.recipe import SourceChoice
from vchat.prep.pipeline.build import build_shards
from vchat.shards.format.open_shards import open_shards
from vchat_testing.building import toy_recipe
from vchat_testing.raw_data import llava_row, write_json, write_llava


def test_the_report_page_shows_sources_reasons_and_escapes(mix_build):
    page = (mix_build[0] / "out/report.html").read_text()
    for text in ("llava_dial", "too_long", "undecodable_image", "rounds per sample"):
        assert text in page


def test_the_report_counts_what_the_index_says_by_source_and_split(mix_build):
    folder, _, done = mix_build
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


def test_the_reports_histograms_count_every_sample_and_image_once(mix_build):
    folder, _, done = mix_build
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


def test_the_report_page_leads_from_a_count_to_its_reasons_and_names_licences(mix_build):
    page = (mix_build[0] / "out/report.html").read_text()
    assert 'href="#record-llava_dial"' in page
    assert 'id="record-llava_dial"' in page
    for licence in mix_build[2].report["licences"].values():
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
