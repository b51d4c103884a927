"""Weights that ZeRO-3 partitions over ranks, gathered while they are read or changed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence

from torch import nn


def gather_weights(
    parameters: Sequence[nn.Parameter], *, changed_by_rank_0: bool = False
) -> contextlib.AbstractContextManager[None]:
    """Return a context in which the parameters are whole; it does nothing where they always are.

    All ranks enter it together.

    Args:
        changed_by_rank_0: the values that rank 0 gives them in the context are those of all ranks.
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
    """Build modules whole in this context, although DeepSpeed partitions what is built around it.

    The engine partitions them later, with the values of rank 0.
    """
    partitioning = sys.modules.get("deepspeed.runtime.zero.partition_parameters")
    if partitioning is None:  # nobody has imported it, so nothing is being partitioned
        yield
        return
    partitioning.shutdown_init_context()
    try:
        yield
    finally:
        partitioning.restore_init_context()
