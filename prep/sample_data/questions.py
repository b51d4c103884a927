"""Questions about pictures of the sample world, and their answers.

An answer depends on the picture alone: the rounds of one dialogue are chosen so that no question
or earlier answer reveals a later answer.
"""

from __future__ import annotations

from vchat.prep.sample_data.draws import Draws
from vchat.prep.sample_data.world import PLACES, SHAPES, Cover, Scene, ScenePair, Thing

QuestionAnswer = tuple[str, str]
"""A question and its answer."""


def color_of(thing: Thing) -> QuestionAnswer:
    """Ask for the colour of a thing named by its shape."""
    return f"What color is the {thing.shape}?", thing.color


def shape_of(thing: Thing) -> QuestionAnswer:
    """Ask for the shape of a thing named by its colour."""
    return f"What shape is {thing.color}?", thing.shape


def place_of(thing: Thing) -> QuestionAnswer:
    """Ask for the place of a thing named by its shape."""
    return f"Where is the {thing.shape}?", thing.place


def number_in(scene: Scene) -> QuestionAnswer:
    """Ask how many things there are."""
    return "How many shapes are there?", scene.number


def whole_picture(scene: Scene) -> QuestionAnswer:
    """Ask for everything: what is in each quarter."""
    return "Describe the image.", by_place(scene)


def by_place(scene: Scene) -> str:
    """Return what is in each quarter, in reading order."""
    names = {thing.place: thing.name for thing in scene.things}
    return ", ".join(f"{place}: {names.get(place, 'nothing')}" for place in PLACES)


def list_of_shapes(scene: Scene) -> QuestionAnswer:
    """Ask for everything by shape, in the order of `SHAPES`."""
    things = sorted(scene.things, key=lambda thing: SHAPES.index(thing.shape))
    listed = [f"{thing.shape}: {thing.color}, {thing.place}" for thing in things]
    return "List the shapes.", "; ".join(listed)


def sentences_about(scene: Scene) -> str:
    """Return one sentence per thing, in reading order."""
    return " ".join(f"A {thing.name} is at the {thing.place}." for thing in scene.things)


def dialogue_about(scene: Scene, draws: Draws) -> list[QuestionAnswer]:
    """Return three to five questions, or two if there is only one thing.

    A question about a thing names either its colour (and asks for its shape) or its shape. The
    number of things is asked for first, before other questions reveal it.
    """
    asked = [number_in(scene)]
    for thing in scene.things:
        if draws.below(3) == 0:
            asked.append(shape_of(thing))
        else:
            asked += [color_of(thing), place_of(thing)]
    chosen = draws.some(asked, draws.between(3, 5))
    return sorted(chosen, key=lambda each: each != asked[0])


def comparison_of(scene: Scene, draws: Draws) -> QuestionAnswer:
    """Ask which of two things is higher (or further left), and why; or whether one is alone."""
    if len(scene.things) == 1:
        thing = scene.things[0]
        return (
            f"Is there anything besides the {thing.shape}, and how do you know?",
            f"No, the {thing.name} at the {thing.place} is alone.",
        )
    one, other = draws.some(scene.things, 2)
    up = one.place.split()[0] != other.place.split()[0]
    first, second = sorted((one, other), key=lambda thing: scene.things.index(thing))
    if not up:
        first, second = sorted((one, other), key=lambda thing: thing.place.endswith("right"))
    return (
        f"Which is {'higher' if up else 'further left'}, the {one.shape} or the {other.shape},"
        " and why?",
        f"The {first.shape}, because it is at the {first.place} and the {second.shape} is at the"
        f" {second.place}.",
    )


def title_of(cover: Cover) -> QuestionAnswer:
    """Ask for the printed word."""
    return "What is the title of this book?", cover.word


def genre_of(cover: Cover) -> QuestionAnswer:
    """Ask for the genre of the book, which its colour tells."""
    return "What type of book is this?", cover.genre


def which_image(pair: ScenePair, thing: Thing) -> QuestionAnswer:
    """Ask which of two images has a thing that only one of them has."""
    name = f"{thing.shape} at the {thing.place}" if pair.change == "position" else thing.name
    return f"Which image has the {name}?", "Image 1" if pair.has_first(thing) else "Image 2"


def what_changed(pair: ScenePair) -> QuestionAnswer:
    """Ask for the difference of two images."""
    return "What changed?", pair.change


def describe_image(pair: ScenePair, number: int) -> QuestionAnswer:
    """Ask for everything in image 1 or 2."""
    return f"Describe Image {number}.", by_place((pair.first, pair.second)[number - 1])


def color_in_image(pair: ScenePair, draws: Draws) -> QuestionAnswer:
    """Ask for the colour of a thing in the image of a given number.

    If the pair differs in a colour, the question is about the thing of that colour.
    """
    number = draws.between(1, 2)
    scene = (pair.first, pair.second)[number - 1]
    odd = [thing for thing in pair.odd_things() if thing in scene.things]
    thing = odd[0] if pair.change == "color" else draws.pick(scene.things)
    return f"What color is the {thing.shape} in Image {number}?", thing.color
