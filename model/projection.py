"""From the tower's features to vectors of the decoder's width.

In: [N, positions, tower width]. Out: [N, positions, decoder width]. The submodules are numbered as
in the published checkpoints, so that their keys load unchanged.
"""

from __future__ import annotations

from torch import nn


def projection_named(name: str, *, tower_width: int, decoder_width: int) -> nn.Module:
    """Return a fresh projection.

    `baseline` is one linear map followed by a LayerNorm, so that image vectors have the scale of
    the LayerNorm's weight whatever the tower's scale is.
    """
    if name == "baseline":
        return nn.Sequential(
            nn.Linear(tower_width, decoder_width), nn.LayerNorm(decoder_width, eps=1e-12)
        )
    raise ValueError(f"projection must be baseline, got {name!r}")
