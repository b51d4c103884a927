"""Loss by source: which source each supervised token of packed rows is of, and the sums of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from vchat.shards.loading.collate import IGNORED, Batch


class SourceLosses:
    """Summed loss and supervised tokens of each source."""

    def __init__(self, sources: Sequence[str]) -> None:
        """Start from nothing; `sources` are the same on all ranks."""
        self._sources = tuple(sources)
        self._number = {name: number for number, name in enumerate(self._sources)}
        self._sums: torch.Tensor | None = None

    def add(self, batch: Batch, target_losses: torch.Tensor) -> None:
        """Add the losses float32[T] of a micro-batch, or of an empty one in its place (T = 0)."""
        if len(target_losses) == 0:
            return
        source = torch.from_numpy(self._source_of_targets(batch)).to(target_losses.device)
        pair = torch.stack([target_losses.double(), torch.ones_like(target_losses).double()])
        added = pair.new_zeros(2, len(self._sources)).index_add(1, source, pair)
        self._sums = added if self._sums is None else self._sums + added

    def sums(self, device: torch.device) -> torch.Tensor:
        """Return float64[2 * sources] for one all-reduce: losses, then numbers of tokens."""
        if self._sums is None:
            return torch.zeros(2 * len(self._sources), dtype=torch.float64, device=device)
        return self._sums.flatten().to(device)

    def with_sums(self, sums: Sequence[float]) -> SourceLosses:
        """Return the same sources with the sums of all ranks."""
        total = SourceLosses(self._sources)
        total._sums = torch.tensor(sums, dtype=torch.float64).view(2, -1)
        return total

    def means(self) -> dict[str, float]:
        """Mean cross entropy per supervised token of each source that had any."""
        if self._sums is None:
            return {}
        losses, tokens = self._sums.tolist()
        each = zip(self._sources, losses, tokens, strict=True)
        return {name: loss / count for name, loss, count in each if count}

    def num_tokens(self) -> dict[str, int]:
        """Supervised tokens of each source that had any."""
        if self._sums is None:
            return {}
        counts = zip(self._sources, self._sums[1].tolist(), strict=True)
        return {name: round(count) for name, count in counts if count}

    def _source_of_targets(self, batch: Batch) -> NDArray[np.int64]:
        """Return int64[T], numbers of sources, in the order of the model's `target_losses`."""
        segments = batch.segment_ids.numpy()
        of_same = segments[:, 1:] == segments[:, :-1]
        row, column = np.nonzero((batch.labels.numpy()[:, 1:] != IGNORED) & of_same)
        numbers = [[self._number[source_name(key)] for key in keys] for keys in batch.keys]
        width = max(map(len, numbers))
        table = np.array([of_row + [0] * (width - len(of_row)) for of_row in numbers])
        found: NDArray[np.int64] = table[row, segments[row, column + 1] - 1]
        return found


def source_name(key: str) -> str:
    """The source of a sample: what its key begins with."""
    return key.partition("/")[0]
