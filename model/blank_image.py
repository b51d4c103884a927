"""A blank image for a batch without any, so that all ranks of a run do the same.

Every rank must call the same modules and give every trained parameter a gradient, or ZeRO 3 waits
for ever. ZeRO 2 adds up gradients over ranks in the order in which they arrive. With an image in
every micro-batch, of text alone or of padding alone too, that order is the same on all ranks.

B rows, S positions, P positions of an image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vchat.model.config import VisualChatConfig
from vchat.model.decoding import IGNORED


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledRows:
    """The ids of a batch and what goes with them, int64[B, S] each."""

    input_ids: Tensor
    labels: Tensor
    segment_ids: Tensor

    position_ids: Tensor | None
    """None counts them per segment."""

    def with_blank_image(self, *, image_token_id: int, num_positions: int) -> LabelledRows:
        """Add a row that holds the slots of one image, a position of text, and no loss.

        Shorter rows are padded to that length.

        Args:
            image_token_id: the slot id.
            num_positions: P, how many slots the image takes.
        """
        length = max(self.input_ids.shape[1], num_positions + 1)
        column = torch.arange(length, device=self.input_ids.device)
        is_slot, is_used = column < num_positions, column <= num_positions
        position_ids = self.position_ids
        if position_ids is not None:
            position_ids = _add_row(position_ids.expand_as(self.input_ids), is_used * column)
        return LabelledRows(
            input_ids=_add_row(self.input_ids, is_slot * image_token_id),
            labels=_add_row(self.labels, torch.full_like(column, IGNORED), padding=IGNORED),
            segment_ids=_add_row(self.segment_ids, is_used),
            position_ids=position_ids,
        )


def add_blank_image(
    batch: LabelledRows, config: VisualChatConfig
) -> tuple[LabelledRows, Tensor | None]:
    """Return a batch without images with a blank one, and its pixels, uint8[1, 3, H, W].

    A batch that has slots is returned as it is, without pixels: its images are missing.
    """
    if bool((batch.input_ids == config.image_token_id).any()):
        return batch, None
    side, device = config.image_size, batch.input_ids.device
    pixels = torch.zeros(1, 3, side, side, dtype=torch.uint8, device=device)
    filled = batch.with_blank_image(
        image_token_id=config.image_token_id, num_positions=config.positions_per_image
    )
    return filled, pixels


def _add_row(rows: Tensor, row: Tensor, *, padding: int = 0) -> Tensor:
    """Return int64[B + 1, L] of int64[B, S] and a row of L values."""
    padded = functional.pad(rows, (0, len(row) - rows.shape[1]), value=padding)
    return torch.cat([padded, row.to(rows)[None]])
