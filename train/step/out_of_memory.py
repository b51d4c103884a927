"""Explain running out of memory by the rows of the micro-batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from vchat.shards.loading.collate import Batch

MAX_NAMED_SAMPLES = 20


@contextlib.contextmanager
def explain_out_of_memory(batch: Batch, *, step: int) -> Iterator[None]:
    """Name the rows of a micro-batch if memory runs out inside the block.

    Raises:
        MemoryError: in place of what torch raises, on an accelerator or on the CPU.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as err:
        if not is_out_of_memory(err):
            raise
        raise MemoryError(
            f"step {step}, micro-batch {batch.micro_batch + 1} of {batch.micro_batches}: out of "
            f"memory with {describe_batch(batch)}; a smaller batch.rows_per_micro_batch, "
            "data.tokens_per_row or data.images_per_row, or train.gradient_checkpointing needs "
            f"less ({str(err).splitlines()[0]})"
        ) from err


def is_out_of_memory(error: Exception) -> bool:
    """Whether an accelerator's or the CPU's allocator ran out of memory."""
    no_cpu_memory = "DefaultCPUAllocator: can't allocate memory" in str(error)
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or no_cpu_memory


def describe_batch(batch: Batch) -> str:
    """Describe the size of a micro-batch, with the keys of the samples of each of its rows."""
    keys = [
        f"row {number}: {', '.join(row)}" for number, row in enumerate(shorten_keys(batch.keys))
    ]
    return (
        f"{len(batch.keys)} rows of {batch.token_ids.shape[1]} positions and "
        f"{len(batch.pixels)} images ({'; '.join(keys)})"
    )


def shorten_keys(rows: list[list[str]]) -> list[list[str]]:
    """Return at most `MAX_NAMED_SAMPLES` keys in all, row by row, and how many more a row has."""
    left, named = MAX_NAMED_SAMPLES, []
    for row in rows:
        some = row[:left] if len(row) <= left else [*row[:left], f"and {len(row) - left} more"]
        named.append(some or ["no sample"])
        left -= min(left, len(row))
    return named
