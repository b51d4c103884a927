"""MIMIC-IT CGD, alone and joined with LLaVA: entries read = records + expected rejections."""

import json
from pathlib import Path

from vchat.prep.sources.catalogue import SOURCES
from vchat_testing.converting import expect, run_source
from vchat_testing.raw_data import COCO_KINDS, llava_row, write_coco, write_json


def pair(*images, rel=(), instruction="What differs?", answer="A boat."):
    ids = [
        f"CGD_IMG_{image}" if isinstance(image, str) else f"CGD_IMG_{image:012d}"
        for image in images
    ]
    return {
        "instruction": instruction,
        "answer": answer,
        "image_ids": ids,
        "rel_ins_ids": list(rel),
    }


def write_cgd(data: Path, entries: dict) -> None:
    write_json(
        data / "MIMIC-IT/CGD/CGD_instructions.json", {"meta": {"version": "0"}, "data": entries}
    )


def test_cgd(tmp_path):
    write_coco(tmp_path, {**COCO_KINDS, 14: "good", 1417: "good"})
    write_cgd(
        tmp_path,
        {
            "I01": pair(1, 2, rel=["I02", "I01", "absent"], answer="First."),
            "I02": pair(1, 2, answer="Second, related one-sidedly."),
            "I03": pair(1, 2, answer="Unrelated: its own dialogue."),
            "I04": pair(2, 1, rel=["I01"], answer="Other order: other images."),
            "I05": pair("0000000000000014", "000000001417", answer="16 digits."),
            "I06": pair(14, 1417, rel=["I07"], answer=" "),
            "I07": pair(14, 1417, answer="Kept without its neighbour."),
            "I08": pair(14, 99),
            "I09": pair(14, 14),
            "I10": pair(14),
            "I11": pair("abc", 14),
            "I12": {"instruction": "?", "answer": "!", "image_ids": None},
            "I13": pair(3, 14),
            "I14": pair(14, 1417, answer=""),
            "I15": pair(14, 1417, instruction=None),
            "I16": pair("12345678901234", 14),
        },
    )
    records, tally = run_source(SOURCES["otter_mimicit_cgd"], tmp_path, work=tmp_path / "work")
    rejected = {
        "bad_id": 2,
        "bad_row": 2,
        "empty_text": 1,
        "missing_image": 1,
        "placeholder_mismatch": 2,
        "tiny_image": 1,
    }
    expect(tally, records=5, rows=rejected, pairs={"empty_text": 1})
    assert tally["pairs"] == 16
    first = records[0]
    assert [round_.answer for round_ in first.rounds] == ["First.", "Second, related one-sidedly."]
    assert [image.key for image in first.images] == ["coco:1", "coco:2"]
    assert first.rounds[1].images == ()
    assert [image.file for image in records[3].images] == [
        "coco/train2017/000000000014.jpg",
        "coco/train2017/000000001417.jpg",
    ]


def test_a_repeated_instruction_id_is_a_duplicate(tmp_path):
    write_coco(tmp_path, {14: "good", 1417: "good"})
    one = json.dumps(pair(14, 1417))
    path = tmp_path / "MIMIC-IT/CGD/CGD_instructions.json"
    write_cgd(tmp_path, {})
    path.write_text(f'{{"data": {{"I1": {one}, "I1": {one}}}}}')
    _, tally = run_source(SOURCES["otter_mimicit_cgd"], tmp_path, work=tmp_path / "work")
    expect(tally, records=1, rows={"duplicate": 1})


def test_llava_otter_blend(tmp_path):
    write_coco(tmp_path, dict.fromkeys((1, 2, 3, 4), "good"))
    dialogue = llava_row(1, "<image>\nOne?", "Yes.", "Sure?", "Sure.")
    write_json(tmp_path / "llava/detail_23k.json", [llava_row(2, "Two?\n<image>", "Two.")])
    write_json(tmp_path / "llava/complex_reasoning_77k.json", [llava_row(3, "<image>\nBad", "")])
    write_json(tmp_path / "llava/conversation_58k.json", [dialogue, dialogue])
    entries = {
        "I1": pair(1, 2, rel=["I2"], answer="First difference."),
        "I2": pair(1, 2, answer="Second difference."),
        "I3": pair("0000000000000002", 4, answer="The last one has no conversation."),
        "I4": pair(3, 1, answer="The first has a defective one only."),
        "I5": pair(4, 4),
        "I6": pair(1, 2, answer=""),
    }
    write_cgd(tmp_path, entries)
    records, tally = run_source(SOURCES["llava_otter_blend"], tmp_path, work=tmp_path / "work")
    rejected = {"empty_text": 1, "placeholder_mismatch": 1, "unmatched": 1}
    expect(tally, records=2, rows=rejected)
    both, one = records
    assert [round_.answer for round_ in both.rounds] == [
        "Yes.",
        "Sure.",
        "Two.",
        "First difference.",
        "Second difference.",
    ]
    assert [len(round_.images) for round_ in both.rounds] == [1, 0, 1, 0, 0]
    assert [image.key for image in both.images] == ["coco:1", "coco:2"]
    assert [image.key for image in one.rounds[-1].images] == ["coco:4"]
    assert both.record_id == "I1+conversation_58k/000000000001+detail_23k/000000000002"
    assert tally["repairs"] == {"long_id": 1}
