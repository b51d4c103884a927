"""The report draws the log, and only the log."""

import json
import re

import pytest
from PIL import Image

from vchat.train.logs.curves import PANELS, running_mean
from vchat.train.logs.report import write_report

LINES = [
    {
        "step": step,
        "loss": 3.0 / step,
        "loss_by_source": {"llava": 2.0 / step, "ocr_vqa": 4.0 / step},
        "lr": 0.1,
        **({"eval_loss": 2.5 / step} if step % 50 == 0 else {}),
    }
    for step in range(1, 101)
]


def log(folder, lines):
    folder.mkdir(exist_ok=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_page_and_picture_show_every_quantity_of_the_log_and_need_nothing_else(tmp_path):
    log(tmp_path, LINES)
    page, picture = write_report(tmp_path)
    html = page.read_text()
    assert html.count("<svg") == 3
    for text in ("Loss per supervised token", "Training loss by source", "Learning rate"):
        assert text in html
    assert "0.0250 at step 100" in html  # the best held-out loss
    outside = {*re.findall(r"""(?:src|href)=["'](?!#)([^"']*)""", html)}
    assert outside == set()
    assert "<script" not in html
    with Image.open(picture) as image:
        assert image.format == "PNG"
        assert image.width > 1000


def test_the_page_says_loss_scale_and_skipped_steps_of_fp16(tmp_path):
    fp16 = {"loss_scale": 1024.0, "skipped_steps": 6, "skipped_rows": 1030}
    log(tmp_path, [line | fp16 for line in LINES])
    html = write_report(tmp_path)[0].read_text()
    for text in ("fp16 loss scale", "1,024", "steps without an update", "6, with 1,030 rows"):
        assert text in html


def test_a_panel_has_a_curve_for_each_source_and_each_point_of_the_log():
    of_source = next(panel for panel in PANELS if panel.names == ("loss_by_source",))
    curves = of_source.curves(LINES)
    assert set(curves) == {"llava", "ocr_vqa"}
    assert curves["ocr_vqa"] == [(step, 4.0 / step) for step in range(1, 101)]
    losses = PANELS[0].curves(LINES)
    assert losses["held out"] == [(50, 0.05), (100, 0.025)]


def test_the_running_mean_of_a_straight_line_is_the_line():
    line = [0.5 * i for i in range(200)]
    assert running_mean(line) == pytest.approx(line)
    assert running_mean([1.0]) == [1.0]


def test_names_of_folders_and_sources_are_escaped(tmp_path):
    lines = [{"step": 1, "loss": 3.0, "loss_by_source": {"<i>": 1.0}}]
    log(tmp_path / "<u>", lines)
    html = write_report(tmp_path / "<u>")[0].read_text()
    assert "<u>" not in html
    assert "<i>" not in html


def test_a_folder_without_a_log_or_with_a_broken_one_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"log.jsonl: there is no log"):
        write_report(tmp_path)
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"st')
    with pytest.raises(ValueError, match=r"log.jsonl: line 2 is not JSON"):
        write_report(tmp_path)
