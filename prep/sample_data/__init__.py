"""A small drawn world in the formats of all data sets; `recognise` says what a picture shows."""

from vchat.prep.sample_data.recognise import recognise
from vchat.prep.sample_data.world import Cover, Scene, Thing

__all__ = ["recognise", "Scene", "Cover", "Thing"]
