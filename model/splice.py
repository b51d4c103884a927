"""Image features onto their slots in the row of embeddings.

Features arrive in the order of their slots, row by row. A count mismatch is an error, because from
the first missing or surplus position on every image would stand in the wrong place.
"""

from __future__ import annotations

from torch import Tensor


def splice(embeddings: Tensor, features: Tensor, slots: Tensor) -> Tensor:
    """Return `embeddings` with the vectors at `slots` replaced by `features`, in order.

    Args:
        embeddings: float[B, S, D] of the token ids.
        features: float[N, P, D], P positions for each of N images.
        slots: bool[B, S], True where an image position stands.

    Raises:
        ValueError: the number of slots is not N x P.
    """
    num_slots, num_features = int(slots.sum()), features.shape[0] * features.shape[1]
    if num_slots != num_features:
        raise ValueError(
            f"the token ids have {num_slots} image positions, but {features.shape[0]} images with "
            f"{features.shape[1]} positions each give {num_features} image features"
        )
    if num_slots == 0:
        return embeddings
    return embeddings.masked_scatter(slots[..., None], features.to(embeddings.dtype))
