import json

import pytest

from vchat.train.evaluation.questions import (
    IMAGE_VARIANTS,
    read_questions,
    swap_images,
    vary_images,
)

ENTRY = {
    "id": "q0",
    "kind": "color",
    "images": ["a.jpg"],
    "question": "What color is the circle? ",
    "answer": " red",
    "chance": 0.25,
}


def write(folder, entries):
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg", "copy-of-a.jpg"):
        (folder / name).write_bytes(name.removeprefix("copy-of-").encode())
    path = folder / "eval.json"
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return path


def test_a_question_is_read_with_stripped_texts_and_resolved_images(tmp_path):
    (question,) = read_questions(write(tmp_path, [ENTRY | {"note": "ignored"}]))
    assert question.images == ((tmp_path / "a.jpg").resolve(),)
    assert (question.id, question.kind, question.chance) == ("q0", "color", 0.25)
    assert (question.question, question.answer) == ("What color is the circle?", "red")


@pytest.mark.parametrize("key", ENTRY)
def test_a_missing_key_names_file_entry_and_key(tmp_path, key):
    second = {k: v for k, v in (ENTRY | {"id": "q1"}).items() if k != key}
    path = write(tmp_path, [ENTRY, second])
    with pytest.raises(
        ValueError, match=rf"eval\.json: entry 1.*key '{key}' is missing, wanted id"
    ):
        read_questions(path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"images": "a.jpg"}, r"\(id 'q0'\): 'images' is str \"a.jpg\", wanted list"),
        ({"images": [3]}, "image int 3, wanted a path relative to"),
        ({"images": ["no.jpg"]}, "image 'no.jpg' is missing, wanted a file at"),
        ({"images": ["../eval.json"]}, "lies outside"),
        ({"images": ["/etc/hostname"]}, "lies outside"),
        ({"chance": 25}, "'chance' is 25, wanted 0 to 1"),
        ({"chance": True}, "'chance' is bool true, wanted int or float"),
        ({"answer": 3}, "'answer' is int 3, wanted str"),
    ],
)
def test_a_wrong_value_names_what_was_found_and_wanted(tmp_path, change, message):
    path = write(tmp_path, [ENTRY | change])
    with pytest.raises(ValueError, match=r"eval\.json: entry 0") as error:
        read_questions(path)
    assert error.match(message)


@pytest.mark.parametrize(
    "text, message",
    [
        ('[{"id": ', "is not JSON: .*line 1"),
        ("[" * 100_000, "is nested too deep, wanted at most 100 levels"),
        ("{}", "found dict {}, wanted a JSON array"),
        ("[]", "found an empty array, wanted a JSON array of at least one question"),
        ('["q"]', 'entry 0: found str "q", wanted an object with id, kind'),
    ],
)
def test_a_file_of_another_shape_is_one_clear_error(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as error:
        read_questions(write(tmp_path, text))
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"eval\.json: no such file, wanted a JSON array"):
        read_questions(tmp_path / "eval.json")


def test_equal_ids_name_both_entries(tmp_path):
    with pytest.raises(ValueError, match="entries 0 and 1 have the same id 'q0'"):
        read_questions(write(tmp_path, [ENTRY, ENTRY]))


def questions_of(tmp_path, *rows):
    entries = [
        ENTRY | {"id": str(i), "kind": kind, "images": images, "answer": answer}
        for i, (kind, images, answer) in enumerate(rows)
    ]
    return read_questions(write(tmp_path, entries))


def names_of(swapped):
    return {q.id: [path.name for path in q.images] for q in swapped.questions}


def test_swapping_takes_pictures_of_the_same_kind_with_another_answer(tmp_path):
    before = questions_of(
        tmp_path,
        ("color", ["a.jpg"], "red"),
        ("count", ["a.jpg"], "1"),
        ("color", ["b.jpg"], "red"),
        ("color", ["c.jpg"], "blue"),
        ("count", ["b.jpg"], "2"),
        ("which", ["a.jpg", "b.jpg"], "image 1"),
        ("which", ["c.jpg", "d.jpg"], "image 2"),
        ("text", [], "yes"),
    )
    after = swap_images(before)
    assert names_of(after) == {
        "0": ["c.jpg"],
        "1": ["b.jpg"],
        "2": ["c.jpg"],
        "3": ["a.jpg"],
        "4": ["a.jpg"],
        "5": ["c.jpg", "d.jpg"],
        "6": ["a.jpg", "b.jpg"],
        "7": [],
    }
    assert (after.num_swapped, after.left_out) == (7, [])
    assert [(q.id, q.question, q.answer) for q in after.questions] == [
        (q.id, q.question, q.answer) for q in before
    ]


def test_a_swapped_question_never_shows_its_own_picture_under_any_name(tmp_path):
    """Several questions a picture, one with another answer next to it, and copies of pictures."""
    before = questions_of(
        tmp_path,
        ("color", ["a.jpg"], "red"),
        ("color", ["a.jpg"], "blue"),
        ("color", ["copy-of-a.jpg"], "green"),
        ("color", ["b.jpg"], "Red."),
        ("color", ["c.jpg"], "white"),
        ("which", ["a.jpg", "b.jpg"], "image 1"),
        ("which", ["c.jpg", "copy-of-a.jpg"], "image 2"),
        ("which", ["c.jpg", "d.jpg"], "image 2"),
    )
    after = swap_images(before)
    assert names_of(after) == {
        "0": ["c.jpg"],  # not b.jpg: its answer is the same one, written otherwise
        "1": ["b.jpg"],
        "2": ["b.jpg"],
        "3": ["c.jpg"],
        "4": ["a.jpg"],
        "5": ["c.jpg", "d.jpg"],
        "7": ["a.jpg", "b.jpg"],
    }
    assert (after.num_swapped, after.left_out) == (7, ["6"])


def test_an_answer_of_several_people_is_no_other_answer(tmp_path):
    path = write(
        tmp_path,
        [
            ENTRY | {"id": "0", "answers": ["red", "Crimson"], "answer": "red"},
            ENTRY | {"id": "1", "images": ["b.jpg"], "answer": "crimson"},
            ENTRY | {"id": "2", "images": ["c.jpg"], "answer": "blue"},
        ],
    )
    assert names_of(swap_images(read_questions(path)))["0"] == ["c.jpg"]


def test_what_cannot_be_swapped_is_left_out_and_counted(tmp_path):
    questions = questions_of(
        tmp_path,
        ("color", ["a.jpg"], "red"),
        ("color", ["b.jpg"], "red"),
        ("count", ["a.jpg"], "1"),
        ("count", ["b.jpg"], "2"),
        ("text", [], "yes"),
    )
    asked = vary_images(questions, variants=IMAGE_VARIANTS)
    assert [len(some) for some in asked.by_variant.values()] == [5, 5, 3]
    assert asked.facts == {"num_swapped": 2, "num_with_images": 4, "not_swapped": ["0", "1"]}
    assert vary_images(questions, variants=["as-is", "blank"]).facts == {}


def test_questions_of_which_none_can_be_swapped_are_refused(tmp_path):
    questions = questions_of(tmp_path, ("color", ["a.jpg"], "red"), ("color", ["b.jpg"], "red"))
    with pytest.raises(ValueError, match="none of the 2 questions with images can be swapped"):
        swap_images(questions)
