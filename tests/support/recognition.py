"""Say what is drawn in a picture of the sample world, from its pixels alone.

Tests use it to check that image k of a sample is the one that its text speaks about. It works after
JPEG compression and after resizing, but only on our own pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vchat.prep.sample_data import glyphs
from vchat.prep.sample_data.draw import FINE, SIZE, TINTS, Spot, draw_shape
from vchat.prep.sample_data.world import PLACES, SHAPES, WORDS, Cover, Scene, Thing, scene_of

Pixels = NDArray[np.float64]
"""float64[H, W, 3], red, green, blue from 0 to 255."""

Tint = NDArray[np.float64]
"""float64[3]."""

Levels = NDArray[np.float64]
"""float64[H, W]: how surely a pixel is part of what is drawn, from 0 to 1."""

SIDE = 16
"""Shapes and words are compared at this size."""


def recognise(image: Image.Image) -> Scene | Cover:
    """Return what is drawn.

    Raises:
        ValueError: the picture holds nothing, so it is not one of ours.
    """
    resized = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    pixels = np.asarray(resized, dtype=np.float64)
    ground = _ground(pixels)
    if ground.max() > 110:
        return _cover(pixels, ground)
    return _scene(pixels)


def _ground(pixels: Pixels) -> Tint:
    """Return the tint along the border, where nothing is drawn."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    tint: Tint = np.median(border, axis=0)
    return tint


def _scene(pixels: Pixels) -> Scene:
    """Look into each quarter; a thing is where the pixels differ from the ground."""
    half = SIZE // 2
    things = []
    for number, place in enumerate(PLACES):
        row, column = divmod(number, 2)
        quarter = pixels[row * half : (row + 1) * half, column * half : (column + 1) * half]
        distance = np.abs(quarter - _ground(quarter)).sum(axis=2)
        if distance.max() > 120:
            seen = distance / distance.max()
            tint = np.median(quarter[seen > 0.75], axis=0)
            things.append(Thing(shape=_nearest(seen, _shapes()), color=_color(tint), place=place))
    if not things:
        raise ValueError("the picture shows no shape of the sample world")
    return scene_of(things)


def _cover(pixels: Pixels, ground: Tint) -> Cover:
    ink = np.clip(1 - pixels.max(axis=2) / ground.max(), 0, 1)
    if ink.max() < 0.5:
        raise ValueError("the picture shows no printed word of the sample world")
    return Cover(word=_nearest(ink, _words()), color=_color(ground))


def _color(tint: Tint) -> str:
    return min(TINTS, key=lambda color: float(np.abs(tint - TINTS[color]).sum()))


def _nearest(levels: Levels, templates: Mapping[str, Levels]) -> str:
    """Return the name of the template that is nearest, with the edge where it fits best.

    Compression moves the edge of what is drawn by up to a pixel.
    """
    fits = [_normal(levels, edge=edge) for edge in (0.35, 0.5, 0.65, 0.8)]

    def distance(name: str) -> float:
        return min(float(np.abs(fit - templates[name]).sum()) for fit in fits)

    return min(templates, key=distance)


def _normal(levels: Levels, *, edge: float = 0.5) -> Levels:
    """Cut to what is drawn, from where levels pass `edge`, and bring it to [SIDE, SIDE]."""
    mask = levels > edge
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    cut = levels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    grey = Image.fromarray((cut * 255).astype(np.uint8))
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float64) / 255


@cache
def _shapes() -> dict[str, Levels]:
    return {shape: _shape_levels(shape) for shape in SHAPES}


@cache
def _words() -> dict[str, Levels]:
    pages = {word: glyphs.dots(word).repeat(3, 0).repeat(3, 1) for word in WORDS}
    return {word: _normal(page.astype(np.float64)) for word, page in pages.items()}


def _shape_levels(shape: str) -> Levels:
    side = 24 * FINE
    image = Image.new("RGB", (side, side))
    spot = Spot(side // 2, side // 2, 10 * FINE)
    draw_shape(ImageDraw.Draw(image), shape, spot, tint=(255, 255, 255), ground=(0, 0, 0))
    return _normal(np.asarray(image.reduce(FINE), dtype=np.float64)[:, :, 0] / 255)
