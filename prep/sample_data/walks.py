"""Short sequences of pictures: one thing that moves to another place in each."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vchat.prep.sample_data.draws import Draws
from vchat.prep.sample_data.questions import QuestionAnswer
from vchat.prep.sample_data.world import PLACES, Scene, Thing, draw_scene, free_choices


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """The scenes of a sequence, and the draws that continue in its pictures."""

    scenes: tuple[Scene, ...]
    draws: Draws

    @property
    def things(self) -> list[Thing]:
        """The thing, as it is in each picture."""
        return [scene.things[0] for scene in self.scenes]

    def where_first(self) -> QuestionAnswer:
        """Ask where the thing is in the first picture."""
        return f"Where is the {self.things[0].shape} at first?", self.things[0].place

    def where_last(self) -> QuestionAnswer:
        """Ask where the thing is in the last picture."""
        return f"Where is the {self.things[-1].shape} at last?", self.things[-1].place

    def what_happens(self) -> QuestionAnswer:
        """Ask for all places that the thing moves to."""
        places = ", then to the ".join(thing.place for thing in self.things[1:])
        first = self.things[0]
        return (
            "What happens in these frames?",
            f"The {first.name} moves from the {first.place} to the {places}.",
        )

    def story(self) -> QuestionAnswer:
        """Ask for a story with one sentence per picture."""
        first, *rest = self.things
        sentences = [f"A {first.name} wakes up at the {first.place}."]
        sentences += [f"It goes to the {thing.place}." for thing in rest]
        return "Tell the story of these pictures.", " ".join(sentences)


def draw_walk(draws: Draws, *, steps: int) -> Walk:
    """Choose a thing and its places in `steps` pictures; it moves in each."""
    thing = draw_scene(draws, number=1).things[0]
    things = [thing]
    while len(things) < steps:
        place = draws.pick(free_choices(PLACES, [things[-1].place]))
        things.append(replace(thing, place=place))
    return Walk(scenes=tuple(Scene((each,)) for each in things), draws=draws)
