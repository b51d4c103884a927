"""The sample world: pictures show what is drawn, pairs differ in one thing, no question leaks."""

import io
from collections import Counter, defaultdict
from itertools import pairwise

import pytest
from PIL import Image

from vchat.prep.sample_data import questions
from vchat.prep.sample_data.draw import SIZE, draw_picture
from vchat.prep.sample_data.draws import Draws
from vchat.prep.sample_data.evaluation import KINDS, draw_items
from vchat.prep.sample_data.walks import draw_walk
from vchat.prep.sample_data.world import (
    CHANGES,
    Scene,
    Thing,
    draw_cover,
    draw_pair,
    draw_scene,
    scene_of,
)
from vchat_testing.recognition import recognise


def compressed(image: Image.Image, *, size: int) -> Image.Image:
    """Return the picture as a build stores it, at another size."""
    file = io.BytesIO()
    image.resize((size, size)).save(file, "JPEG", quality=90)
    return Image.open(file)


@pytest.mark.parametrize("size", [SIZE, 2 * SIZE, 224])
def test_a_stored_picture_is_recognised(size):
    for i in range(60):
        draws = Draws("recognise", size, i)
        drawn = draw_cover(draws) if i % 4 == 0 else draw_scene(draws, number=1 + i % 3)
        assert recognise(compressed(draw_picture(drawn, draws), size=size)) == drawn


def test_an_empty_picture_is_not_recognised():
    with pytest.raises(ValueError, match="no shape"):
        recognise(Image.new("RGB", (SIZE, SIZE), (30, 30, 30)))


def test_draws_are_the_same_everywhere():
    draws = Draws("a key", 7)
    assert [draws.below(1000) for _ in range(6)] == [786, 946, 718, 924, 377, 368]


def test_a_draw_names_what_is_wrong():
    with pytest.raises(ValueError, match="at least 1 choice, got 0"):
        Draws("x").below(0)


@pytest.mark.parametrize("change", CHANGES)
def test_a_pair_differs_in_one_thing(change):
    fields = {"color": "color", "shape": "shape", "position": "place"}
    for i in range(50):
        pair = draw_pair(Draws("pair", i), change=change)
        odd = pair.odd_things()
        if change == "number":
            assert len(odd) == 1
            assert abs(len(pair.first.things) - len(pair.second.things)) == 1
        else:
            one, other = odd
            differing = [f for f in fields.values() if getattr(one, f) != getattr(other, f)]
            assert differing == [fields[change]]


def test_the_order_of_a_pair_does_not_tell_what_changed():
    larger_first = sum(
        len(pair.first.things) > len(pair.second.things)
        for pair in (draw_pair(Draws("order", i), change="number") for i in range(400))
    )
    assert 160 < larger_first < 240


def test_a_walk_never_stays():
    places = [thing.place for thing in draw_walk(Draws("walk"), steps=30).things]
    assert all(here != there for here, there in pairwise(places))


def test_a_scene_refuses_two_things_in_one_place():
    thing = Thing(shape="circle", color="red", place="top left")
    with pytest.raises(ValueError, match="no place twice"):
        scene_of([thing, Thing(shape="ring", color="blue", place="top left")])


def test_a_dialogue_asks_for_shape_or_color_of_a_thing_never_both():
    for i in range(200):
        draws = Draws("dialogue", i)
        scene = draw_scene(draws, number=1 + i % 4)
        asked = questions.dialogue_about(scene, draws)
        assert 2 <= len(asked) <= 5 or len(scene.things) == 1
        assert len(set(asked)) == len(asked)
        for thing in scene.things:
            both = {questions.color_of(thing), questions.shape_of(thing)}
            assert not both <= set(asked)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_question_does_not_reveal_its_answer(kind):
    answers = defaultdict(Counter)
    for i in range(1500):
        wanted = kind.answers[i % len(kind.answers)]
        for attempt in range(200):
            _, (question, answer) = kind.ask(Draws("leak", kind.name, i, attempt))
            if answer == wanted:
                break
        answers[shortened(question)][answer] += 1
    best = sum(max(counts.values()) for counts in answers.values()) / 1500
    assert best < 1 / len(kind.answers) + 0.08


def shortened(question: str) -> str:
    """Name a thing by its shape alone: with its color, too many questions differ to be counted."""
    words = question.split()
    return " ".join(words[:4] + words[5:] if len(words) == 6 and words[0] == "Which" else words)


def test_evaluation_answers_are_balanced_within_a_kind():
    counts = defaultdict(Counter)
    for item in draw_items(5):
        counts[item.kind.name][item.asked[1]] += 1
        assert item.asked[1] in item.kind.answers
    assert set(counts) == {kind.name for kind in KINDS}
    for name, found in counts.items():
        assert len(set(found.values())) == 1, name


def test_evaluation_questions_have_the_answer_that_their_pictures_show():
    for item in draw_items(6)[:150]:
        shown = [recognise(image) for image in item.images]
        question, answer = item.asked
        if item.kind.name == "word":
            assert answer == shown[0].word
        elif item.kind.name == "count":
            assert answer == shown[0].number
        elif item.kind.name in ("color", "shape", "position"):
            assert any(
                (question, answer) == ask(thing)
                for thing in shown[0].things
                for ask in (questions.color_of, questions.shape_of, questions.place_of)
            )
        elif item.kind.name == "which_image":
            assert [is_shown(question, scene) for scene in shown] == [
                answer == "Image 1",
                answer == "Image 2",
            ]


def is_shown(question: str, scene: Scene) -> bool:
    """Return whether a scene has what `Which image has the ...?` asks for."""
    wanted = question.removeprefix("Which image has the ").removesuffix("?")
    return any(wanted in (t.name, f"{t.shape} at the {t.place}") for t in scene.things)
