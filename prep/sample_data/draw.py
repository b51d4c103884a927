"""Scenes and covers as pictures.

The scene decides what a picture shows; random draws decide the rest: where in its quarter a thing
is, its size, its exact tint, the grey of the background. No answer depends on these.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageDraw

from vchat.prep.sample_data import glyphs
from vchat.prep.sample_data.draws import Draws
from vchat.prep.sample_data.world import PLACES, Cover, Scene, Thing

SIZE = 64
"""Width and height of every picture, in pixels."""

TINTS = {
    "red": (235, 50, 50),
    "green": (50, 200, 70),
    "blue": (60, 105, 240),
    "yellow": (240, 215, 40),
    "purple": (185, 65, 215),
    "white": (245, 245, 245),
}
"""The mean of each colour; the tint of a thing differs by at most `TINT_SPREAD` per channel."""

TINT_SPREAD = 10
FINE = 4
"""Pictures are drawn at this multiple of their size and averaged, which smooths edges."""

Tint = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Spot:
    """Centre and half side of a thing, in pixels of the enlarged drawing."""

    x: int
    y: int
    half: int

    def box(self, width: float, height: float) -> tuple[float, float, float, float]:
        """Return left, top, right, bottom of a box around the centre, in units of the half side."""
        return (
            self.x - width * self.half,
            self.y - height * self.half,
            self.x + width * self.half,
            self.y + height * self.half,
        )


def draw_picture(subject: Scene | Cover, draws: Draws) -> Image.Image:
    """Draw a scene or a cover as an RGB image of `SIZE` by `SIZE` pixels."""
    if isinstance(subject, Cover):
        return draw_cover_picture(subject, draws)
    image = Image.new("RGB", (SIZE * FINE, SIZE * FINE))
    pen = ImageDraw.Draw(image)
    grounds = draw_grounds(pen, draws)
    for thing in subject.things:
        spot, tint = draw_spot(thing, draws), draw_tint(thing.color, draws)
        draw_shape(pen, thing.shape, spot, tint=tint, ground=grounds[thing.place])
    return image.reduce(FINE)


def draw_grounds(pen: ImageDraw.ImageDraw, draws: Draws) -> dict[str, Tint]:
    """Fill the four quarters and return their tints: dark sky above, dark soil below.

    The left is lighter than the right, as if light came from there.
    """
    grey, quarter = draws.between(15, 30), SIZE * FINE // 2
    grounds = {}
    for number, place in enumerate(PLACES):
        row, column = divmod(number, 2)
        light = grey + (0 if column else 20)
        tint = (light + 15, light + 8, light) if row else (light, light + 5, light + 30)
        x, y = column * quarter, row * quarter
        pen.rectangle((x, y, x + quarter - 1, y + quarter - 1), fill=tint)
        grounds[place] = tint
    return grounds


def draw_cover_picture(cover: Cover, draws: Draws) -> Image.Image:
    """Print the word in black, three pixels per dot, in the upper half of the page."""
    image = Image.new("RGB", (SIZE, SIZE), draw_tint(cover.color, draws))
    pen = ImageDraw.Draw(image)
    dots, side = glyphs.dots(cover.word), 3
    height, width = (side * length for length in dots.shape)
    left = (SIZE - width) // 2 + draws.between(-3, 3)
    top = (SIZE // 2 - height) // 2 + draws.between(-3, 3)
    for row, column in zip(*dots.nonzero(), strict=True):
        x, y = left + side * int(column), top + side * int(row)
        pen.rectangle((x, y, x + side - 1, y + side - 1), fill=(10, 10, 10))
    return image


def draw_spot(thing: Thing, draws: Draws) -> Spot:
    """Choose size and centre; the thing stays inside its quarter of the picture."""
    quarter = SIZE * FINE // 2
    row, column = divmod(PLACES.index(thing.place), 2)
    half = draws.between(9 * FINE, 12 * FINE)
    x = column * quarter + quarter // 2 + draws.between(-3 * FINE, 3 * FINE)
    y = row * quarter + quarter // 2 + draws.between(-3 * FINE, 3 * FINE)
    return Spot(x, y, half)


def draw_tint(color: str, draws: Draws) -> Tint:
    """Choose a tint of the colour."""
    red, green, blue = (
        max(0, min(255, level + draws.between(-TINT_SPREAD, TINT_SPREAD))) for level in TINTS[color]
    )
    return red, green, blue


def draw_shape(
    pen: ImageDraw.ImageDraw, shape: str, spot: Spot, *, tint: Tint, ground: Tint
) -> None:
    """Draw one shape; the hole of a ring shows the ground."""
    if shape == "circle":
        pen.ellipse(spot.box(1, 1), fill=tint)
    elif shape == "square":
        pen.rectangle(spot.box(0.9, 0.9), fill=tint)
    elif shape == "triangle":
        left, top, right, bottom = spot.box(1, 1)
        pen.polygon([(spot.x, top), (right, bottom), (left, bottom)], fill=tint)
    elif shape == "cross":
        pen.rectangle(spot.box(1, 0.34), fill=tint)
        pen.rectangle(spot.box(0.34, 1), fill=tint)
    elif shape == "ring":
        pen.ellipse(spot.box(1, 1), fill=tint)
        pen.ellipse(spot.box(0.5, 0.5), fill=ground)
    else:
        raise ValueError(f"no way to draw a {shape!r}")
