import json

import pytest

from vchat.train.evaluation.questions import read_questions, swap_images

ENTRY = {
    "id": "q0",
    "kind": "color",
    "images": ["a.jpg"],
    "question": "What color is the circle? ",
    "answer": " red",
    "chance": 0.25,
}


def write(folder, entries):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (folder / name).write_bytes(b"")
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
        ('[{"id": ', "not readable as JSON: .*line 1"),
        ("[" * 100_000, "not readable as JSON"),
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


def test_swapping_takes_images_of_the_same_kind_with_another_answer(tmp_path):
    before = questions_of(
        tmp_path,
        ("color", ["a.jpg"], "red"),
        ("count", ["a.jpg"], "1"),
        ("color", ["b.jpg"], "red"),
        ("color", ["c.jpg"], "blue"),
        ("count", ["b.jpg"], "2"),
        ("which", ["a.jpg", "b.jpg"], "image 1"),
        ("which", ["b.jpg", "c.jpg"], "image 2"),
        ("text", [], "yes"),
    )
    after = swap_images(before)
    names = [[path.name for path in question.images] for question in after]
    assert names == [
        ["c.jpg"],
        ["b.jpg"],
        ["c.jpg"],
        ["a.jpg"],
        ["a.jpg"],
        ["b.jpg", "c.jpg"],
        ["a.jpg", "b.jpg"],
        [],
    ]
    assert [(q.id, q.question, q.answer) for q in after] == [
        (q.id, q.question, q.answer) for q in before
    ]


def test_a_kind_with_one_answer_cannot_be_swapped(tmp_path):
    questions = questions_of(tmp_path, ("color", ["a.jpg"], "red"), ("color", ["b.jpg"], "red"))
    with pytest.raises(ValueError, match="'color' cannot be swapped: all its 2 questions"):
        swap_images(questions)
