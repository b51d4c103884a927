"""What happened in one optimizer step: counted on each rank, added up over all of them."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from vchat.shards.collate import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over all ranks of one step."""

    loss_sum: float
    tokens: float
    """Positions that hold text or image, padding not counted."""

    positions: float
    images: float
    supervised: int
    """Supervised tokens of the step, as planned."""

    stop: bool
    """True if any rank was asked to stop."""

    seconds: float
    """Of this rank, from the first wait for data to here."""

    wait_share: float
    """Share of that time this rank waited for data."""

    def values(self) -> dict[str, float]:
        """What the log says about the step."""
        return {
            "loss": self.loss_sum / max(1, self.supervised),
            "supervised_tokens": self.supervised,
            "images": round(self.images),
            "tokens_per_s": round(self.tokens / self.seconds, 1),
            "data_wait_share": round(self.wait_share, 4),
            "padding_share": round(1 - self.tokens / max(1.0, self.positions), 4),
            "memory_gb": round(peak_memory_gb(), 3),
        }


class Tally:
    """Counts the micro-batches of one step on this rank; its clock starts when it is made."""

    def __init__(self) -> None:
        self._started_at = time.perf_counter()
        self._waited_s = 0.0
        self._loss_sums: list[torch.Tensor] = []
        self._counts = [0, 0, 0]
        self._supervised = 0

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield `batches`, measuring how long each one was waited for."""
        iterator = iter(batches)
        while True:
            asked_at = time.perf_counter()
            batch = next(iterator, None)
            self._waited_s += time.perf_counter() - asked_at
            if batch is None:
                return
            yield batch

    def add(self, batch: Batch, loss_sum: torch.Tensor) -> None:
        """Count one micro-batch; its loss stays on the device until the step ends."""
        self._supervised = batch.supervised_of_step
        self._loss_sums.append(loss_sum.detach().double())
        counts = (
            int((batch.segment_ids > 0).sum()),
            batch.segment_ids.numel(),
            len(batch.pixels),
        )
        self._counts = [old + new for old, new in zip(self._counts, counts, strict=True)]

    def over_all_ranks(self, device: torch.device, *, stop: bool) -> Totals:
        """Add up over all ranks in one small message; every rank gets the same sums."""
        mine = torch.tensor([*self._counts, stop], dtype=torch.float64, device=device)
        sums = torch.cat([torch.stack(self._loss_sums).sum()[None], mine])
        dist.all_reduce(sums)
        loss_sum, tokens, positions, images, stops = sums.tolist()
        seconds = time.perf_counter() - self._started_at
        return Totals(
            loss_sum=loss_sum,
            tokens=tokens,
            positions=positions,
            images=images,
            supervised=self._supervised,
            stop=stops > 0,
            seconds=seconds,
            wait_share=self._waited_s / seconds,
        )


def peak_memory_gb() -> float:
    """Most memory this process has held: on its accelerator, or resident if it has none."""
    if torch.accelerator.is_available():
        return float(torch.accelerator.max_memory_allocated()) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
