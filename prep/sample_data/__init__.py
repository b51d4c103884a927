"""A small drawn world in the formats of all data sets; `recognise` says what a picture shows.

`by_place` is the answer to "Describe the image." for what was recognised.
"""

from vchat.prep.sample_data.questions import by_place
from vchat.prep.sample_data.recognition import recognise
from vchat.prep.sample_data.world import Cover, Scene, Thing

__all__ = ["recognise", "by_place", "Scene", "Cover", "Thing"]
