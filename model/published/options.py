"""What else the published code does differently: the order of a dialogue's images."""

from __future__ import annotations

import torch
from torch import Tensor


def order_features(
    features: Tensor, slots: Tensor, segments: Tensor, *, image_order: str
) -> Tensor:
    """Return features of images in the order in which they fill their slots.

    Args:
        features: float[N, P, D], in the order in which the images are given.
        slots: bool[B, S]; if they are not N x P, the features are returned as they are.
        segments: int64[B, S], which dialogue of its row a position belongs to.
        image_order: `reversed` puts the first image of each dialogue into its last slot.
    """
    if image_order != "reversed" or int(slots.sum()) != features[..., 0].numel():
        return features
    return reverse_in_dialogues(features, slots, segments)


def reverse_in_dialogues(features: Tensor, slots: Tensor, segments: Tensor) -> Tensor:
    """Return features of images with the order of each dialogue's images reversed.

    Args:
        features: float[N, P, D], in the order of their slots.
        slots: bool[B, S], N x P of them True.
        segments: int64[B, S], which dialogue of its row a position belongs to.
    """
    rows = torch.arange(len(slots), device=slots.device)[:, None]
    dialogues = (rows * (segments.max() + 1) + segments)[slots][:: features.shape[1]]
    _, dialogue, counts = torch.unique_consecutive(
        dialogues, return_inverse=True, return_counts=True
    )
    ends = counts.cumsum(0)
    starts = ends - counts
    index = torch.arange(len(features), device=features.device)
    return features[starts[dialogue] + ends[dialogue] - 1 - index]
