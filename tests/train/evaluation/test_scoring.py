import io

import pytest
from rich.console import Console

from vchat.train.evaluation.metrics import normalise_answer
from vchat.train.evaluation.questions import Question
from vchat.train.evaluation.scoring import (
    AnsweredQuestion,
    score_answers,
    score_table,
    wilson_interval,
)


def answered(kind, num_images, *, right, chance=0.5):
    question = Question(
        id="q", kind=kind, images=("a.jpg",) * num_images, question="?", answer="red", chance=chance
    )
    return AnsweredQuestion(question=question, answer="Red." if right else "blue", ended=True)


@pytest.mark.parametrize("text", ["red", " red\n", "RED", "red.", "Red. ", "red ."])
def test_blanks_case_and_one_final_full_stop_are_ignored(text):
    assert normalise_answer(text) == "red"


@pytest.mark.parametrize("text", ["re d", "red..", "red!", "a red", ".red", ""])
def test_nothing_else_is_ignored(text):
    assert normalise_answer(text) != "red"


def test_a_number_keeps_its_decimal_point():
    assert normalise_answer("1.5.") == "1.5"


# Newcombe 1998, Statistics in Medicine 17: table I, method 3.
@pytest.mark.parametrize(
    "num_right, num_trials, low, high",
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_is_the_published_wilson_interval(num_right, num_trials, low, high):
    interval = wilson_interval(num_right, num_trials=num_trials)
    assert interval == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("num_right, num_trials", [(0, 1), (1, 1), (0, 500), (500, 500), (7, 9)])
def test_the_interval_lies_in_0_to_1_and_contains_the_share(num_right, num_trials):
    low, high = wilson_interval(num_right, num_trials=num_trials)
    assert 0 <= low <= num_right / num_trials <= high <= 1
    assert low < high


@pytest.mark.parametrize("num_right, num_trials", [(2, 1), (-1, 5), (0, 0)])
def test_impossible_counts_are_an_error(num_right, num_trials):
    with pytest.raises(ValueError, match="wanted 0 <= right <= trials"):
        wilson_interval(num_right, num_trials=num_trials)


def test_scores_are_per_kind_then_per_number_of_images_then_all():
    result = score_answers(
        [
            answered("which", 2, right=True, chance=0.5),
            answered("color", 1, right=True, chance=0.25),
            answered("color", 1, right=False, chance=0.25),
            answered("count", 1, right=False, chance=0.0),
        ]
    )
    assert [(s.group, s.num_right, s.num_questions) for s in result] == [
        ("which", 1, 1),
        ("color", 1, 2),
        ("count", 0, 1),
        ("single-image", 1, 3),
        ("two-image", 1, 1),
        ("all", 2, 4),
    ]
    assert [s.chance for s in result] == pytest.approx([0.5, 0.25, 0.0, 1 / 6, 0.5, 0.25])
    assert [s.is_total for s in result] == [False, False, False, True, True, True]


def test_three_variants_fit_into_80_columns():
    as_is = score_answers([answered("numbered_image", 1, right=i < 47) for i in range(48)])
    blank = score_answers([answered("numbered_image", 1, right=i < 12) for i in range(48)])
    out = io.StringIO()
    runs = {"as-is": as_is, "blank": blank, "swapped": blank}
    Console(file=out, width=80).print(score_table(runs, title="out/step-001000 on eval.json"))
    line = next(line for line in out.getvalue().splitlines() if "numbered_image" in line)
    assert "97.9 (89-100)" in line
    assert line.count("25.0 (15-39)") == 2


def test_a_group_that_a_variant_lacks_gets_a_dash():
    as_is = score_answers([answered("color", 1, right=True), answered("count", 1, right=True)])
    swapped = score_answers([answered("count", 1, right=False)])
    out = io.StringIO()
    runs = {"as-is": as_is, "swapped": swapped}
    Console(file=out, width=80).print(score_table(runs, title="eval.json"))
    lines = [line.split() for line in out.getvalue().splitlines()]
    color, count = (next(one for one in lines if kind in one) for kind in ("color", "count"))
    assert color[-1] == "-"
    assert count[-2] == "0.0"


def test_the_table_shows_variants_side_by_side():
    as_is = score_answers([answered("color", 1, right=True)] * 4)
    blank = score_answers([answered("color", 1, right=False)] * 4)
    out = io.StringIO()
    Console(file=out, width=80).print(
        score_table({"as-is": as_is, "blank": blank}, title="eval.json")
    )
    line = next(line for line in out.getvalue().splitlines() if "color" in line)
    assert "50.0" in line
    assert "100.0 (51-100)" in line
    assert "0.0 (0-49)" in line
