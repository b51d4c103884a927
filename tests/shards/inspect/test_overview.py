"""What is in a set: counts, files that are there or not, and ids shown as what they decode to."""

import json

import pytest

from vchat.base.terminal_text import escape_controls
from vchat.shards.format.open_shards import open_shards
from vchat.shards.format.sample import StoredRound
from vchat.shards.inspect.defects import missing_files
from vchat.shards.inspect.overview import overview, row_at, select_samples
from vchat.shards.inspect.token_spans import token_spans
from vchat.shards.text.template import SYSTEM
from vchat_testing.toy import sample_of, toy_image, toy_shards


@pytest.fixture
def shards(tmp_path):
    return toy_shards(tmp_path / "set", num_samples=6, images_per_sample=lambda i: i % 3)


def test_a_whole_set_misses_no_file(shards):
    assert list(missing_files(shards)) == []


def test_files_that_are_absent_or_of_another_size_are_listed(shards):
    (shards.folder / "train-000000.tar").write_bytes(b"short")
    (shards.folder / "eval-000000.tar").unlink()
    (shards.folder / "tokenizer" / "tokenizer.json").unlink()
    size = shards.manifest["shards"][0]["bytes"]
    found = [str(defect) for defect in missing_files(shards)]
    assert found[0] == f"train-000000.tar: size: found 5 bytes, wanted {size} bytes"
    assert found[1].startswith("eval-000000.tar: file: found nothing, wanted ")
    assert found[2] == "tokenizer/tokenizer.json: file: found nothing, wanted a file"
    assert len(found) == 3


@pytest.mark.parametrize("content", [None, b"junk"])
def test_without_its_index_a_set_has_no_statistics_but_a_defect(shards, content):
    path = shards.folder / "index" / "part-00000.parquet"
    path.unlink() if content is None else path.write_bytes(content)
    found = overview(open_shards(shards.folder), split=None, source=None)
    assert found["groups"] is None
    assert found["totals"] is None
    assert any("part-00000.parquet" in defect for defect in found["defects"])


def test_groups_add_up_to_the_totals_of_the_manifest(shards):
    found = overview(shards, split=None, source=None)
    assert [(g["source"], g["split"]) for g in found["groups"]] == [
        ("toy", "eval"),
        ("toy", "train"),
        ("toy2", "eval"),
        ("toy2", "train"),
    ]
    for name, total in shards.manifest["totals"].items():
        assert sum(group[name] for group in found["groups"]) == total
    assert found["totals"] == shards.manifest["totals"]
    assert found["defects"] == []
    json.dumps(found)


def test_a_split_and_a_source_select_rows(shards):
    assert select_samples(shards, split="train", source="toy2")["key"].to_pylist() == [
        "toy2/1",
        "toy2/3",
        "toy2/5",
    ]
    with pytest.raises(ValueError, match=r"no source 'tooy' in .*; it has toy, toy2"):
        select_samples(shards, split=None, source="tooy")


def test_a_row_that_is_not_there_is_refused(shards):
    with pytest.raises(ValueError, match="no sample 2; there are 2, numbered from 0"):
        row_at(select_samples(shards, split="eval", source=None), 2)


def test_runs_are_the_decoded_ids_with_slots_between(shards):
    tokenizer = shards.tokenizer()
    rounds = (
        StoredRound(images=(0, 1), question="Odd \U0001f600?", answer="\u05e9\u05dc\u05d5\u05dd"),
        StoredRound(images=(), question="<image>", answer="Yes."),
    )
    sample = sample_of("toy/9", tokenizer, rounds, (toy_image(0), toy_image(1)))
    found = [(run.image, run.supervised, run.text) for run in token_spans(sample, tokenizer)]
    assert found == [
        (None, False, f"<s>{SYSTEM}### Image 1:\n"),
        (0, False, ""),
        (None, False, "\n### Image 2:\n"),
        (1, False, ""),
        (None, False, "\n\n### Question:\nOdd \U0001f600?\n\n### Answer:\n"),
        (None, True, "\u05e9\u05dc\u05d5\u05dd</s>"),
        (None, False, "### Question:\n<image>\n\n### Answer:\n"),
        (None, True, "Yes.</s>"),
    ]


def test_pieces_are_tokens_and_no_character_is_torn(shards):
    tokenizer = shards.tokenizer()
    rounds = (StoredRound(images=(), question="\U0001f600\ufffd", answer="red"),)
    sample = sample_of("toy/9", tokenizer, rounds, ())
    question = token_spans(sample, tokenizer)[0]
    assert "\U0001f600" in question.pieces
    assert "".join(question.pieces) == question.text
    assert len(question.pieces) > 20


def test_no_control_character_reaches_a_terminal():
    shown = escape_controls("a\x1b[31m\x00\x7f\x9b\tb\nc")
    assert shown == "a\u241b[31m\u2400\u2421\ufffd\tb\nc"
