"""Loss by source: sums over the supervised tokens of each source."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vchat.shards.loading.collate import Batch
from vchat.train.engine.engine import BatchLoss


class SourceLosses:
    """Summed loss and supervised tokens of each source."""

    def __init__(self, sources: Sequence[str]) -> None:
        """Start at zero; `sources` are equal on all ranks."""
        self._sources = tuple(sources)
        self._number = {name: number for number, name in enumerate(self._sources)}
        self._sums: torch.Tensor | None = None

    def add(self, batch: Batch, loss: BatchLoss) -> None:
        """Add the loss of a micro-batch, or of one without any label in its place."""
        losses = loss.target_losses
        if len(losses) == 0:
            return
        source = self._target_sources(batch, loss.target_indices)
        pair = torch.stack([losses.double(), torch.ones_like(losses).double()])
        added = pair.new_zeros(2, len(self._sources)).index_add(1, source, pair)
        self._sums = added if self._sums is None else self._sums + added

    def sums(self, device: torch.device) -> torch.Tensor:
        """Return float64[2 * sources] for one all-reduce: losses, then token counts."""
        if self._sums is None:
            return torch.zeros(2 * len(self._sources), dtype=torch.float64, device=device)
        return self._sums.flatten().to(device)

    def with_sums(self, sums: Sequence[float]) -> SourceLosses:
        """Return a copy that holds the sums of all ranks."""
        total = SourceLosses(self._sources)
        total._sums = torch.tensor(sums, dtype=torch.float64).view(2, -1)
        return total

    def means(self) -> dict[str, float]:
        """Return the mean cross entropy per supervised token of each source that had any."""
        if self._sums is None:
            return {}
        losses, tokens = self._sums.tolist()
        each = zip(self._sources, losses, tokens, strict=True)
        return {name: loss / count for name, loss, count in each if count}

    def num_tokens(self) -> dict[str, int]:
        """Return the number of supervised tokens of each source that had any."""
        if self._sums is None:
            return {}
        counts = zip(self._sources, self._sums[1].tolist(), strict=True)
        return {name: round(count) for name, count in counts if count}

    def _target_sources(self, batch: Batch, indices: torch.Tensor) -> torch.Tensor:
        """Return int64[T], the number of the source of each label, on the device of `indices`."""
        numbers = [[self._number[source_name(key)] for key in keys] for keys in batch.keys]
        width = max(map(len, numbers))
        padded = [of_row + [0] * (width - len(of_row)) for of_row in numbers]
        device = indices.device
        table = torch.tensor(padded, dtype=torch.int64).to(device)
        row, column = indices.unbind(dim=1)
        return table[row, batch.segment_ids.to(device)[row, column] - 1]


def source_name(key: str) -> str:
    """Return the source of a sample: the first part of its key."""
    return key.partition("/")[0]
