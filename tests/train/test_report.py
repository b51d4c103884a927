"""The report draws the log, and only the log."""

import json
import re

import pytest
from vchat.train.report import curve, write_report


def log(folder, lines):
    folder.mkdir(exist_ok=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_page_has_a_curve_for_every_quantity_in_the_log_and_needs_nothing_else(tmp_path):
    log(tmp_path, [{"step": 1, "loss": 3.0, "lr": 0.1}, {"step": 2, "loss": 1.0, "lr": 0.0}])
    page = write_report(tmp_path).read_text()
    assert page.count("<polyline") == 2
    assert "Loss per supervised token" in page
    assert "last 1, least 1, most 3" in page
    assert not re.search(r"https?:|<script", page)


def test_a_falling_loss_is_drawn_downwards_from_left_to_right():
    drawn = curve([{"step": 5, "loss": 3.0}, {"step": 9, "loss": 1.0}], "loss", title="Loss")
    assert drawn.points == "10.0,10.0 630.0,170.0"


def test_a_single_value_is_drawn_in_the_middle():
    assert curve([{"step": 5, "loss": 3.0}], "loss", title="Loss").points == "320.0,90.0"


def test_names_of_folders_are_escaped(tmp_path):
    log(tmp_path / "<b>", [{"step": 1, "loss": 3.0}])
    assert "<b>" not in write_report(tmp_path / "<b>").read_text()


def test_a_folder_without_a_log_or_with_a_broken_one_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"log.jsonl: there is no log"):
        write_report(tmp_path)
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"st')
    with pytest.raises(ValueError, match=r"log.jsonl: line 2 is not JSON"):
        write_report(tmp_path)
