"""Weights that ZeRO-3 has split over ranks: whole for as long as someone reads or changes them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence

from torch import nn


def gather_weights(
    parameters: Sequence[nn.Parameter], *, changed_by_rank_0: bool = False
) -> contextlib.AbstractContextManager[None]:
    """Return a block in which the parameters are whole; it does nothing if they always are.

    All ranks enter it together.

    Args:
        changed_by_rank_0: what rank 0 makes of them in the block is what all ranks keep.
    """
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        return contextlib.nullcontext()
    import deepspeed

    block: contextlib.AbstractContextManager[None] = deepspeed.zero.GatheredParameters(
        list(parameters), modifier_rank=0 if changed_by_rank_0 else None
    )
    return block


@contextlib.contextmanager
def pause_partitioning() -> Iterator[None]:
    """Make modules whole in this block, although DeepSpeed splits what is made around it.

    The engine splits them later, as rank 0 has them.
    """
    splitting = sys.modules.get("deepspeed.runtime.zero.partition_parameters")
    if splitting is None:  # nobody has imported it, so nothing is being split
        yield
        return
    splitting.shutdown_init_context()
    try:
        yield
    finally:
        splitting.restore_init_context()
