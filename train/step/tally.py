"""The counts of one optimizer step, on one rank and summed over all ranks."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import xxhash

from vchat.shards.loading.collate import Batch
from vchat.train.engine.engine import BatchLoss
from vchat.train.step.source_losses import SourceLosses


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTotals:
    """Sums over all ranks of one step."""

    loss_sum: float
    tokens: float
    """Positions that hold text or image, padding not counted."""

    positions: float
    images: float
    samples: int
    """Sum of the hashes of the sample keys: the same for any order and number of ranks."""

    supervised: int
    """Supervised tokens of the step, as planned."""

    stop: bool
    """True if any rank was asked to stop."""

    bad_keys: list[str]
    """Keys of the samples, of all ranks, in micro-batches that were skipped for their own loss."""

    num_skipped: int
    """Micro-batches skipped on this rank; equal on all ranks."""

    source_losses: SourceLosses
    """Loss and supervised tokens by source."""

    seconds: float
    """Time of the step on this rank, from the first wait for data on."""

    wait_share: float
    """Share of that time in which this rank waited for data."""

    @property
    def loss(self) -> float:
        """Mean cross entropy per planned supervised token of the step."""
        return self.loss_sum / max(1, self.supervised)

    def log_values(self) -> dict[str, Any]:
        """Return the values for the log."""
        skipped = {"skipped_micro_batches": self.num_skipped, "bad_samples": self.bad_keys}
        return (skipped if self.num_skipped else {}) | {
            "loss": self.loss,
            "loss_by_source": self.source_losses.means(),
            "supervised_tokens": self.supervised,
            "images": round(self.images),
            "sample_sum": f"{self.samples:013x}",
            "tokens_per_s": round(self.tokens / self.seconds, 1),
            "data_wait_share": round(self.wait_share, 4),
            "padding_share": round(1 - self.tokens / max(1.0, self.positions), 4),
            "memory_gb": round(peak_memory_gb(), 3),
        }


class StepTally:
    """Counts the micro-batches of one step on this rank; its clock starts at construction."""

    def __init__(self, sources: Sequence[str]) -> None:
        """Start the clock; `sources` are those of the run, equal on all ranks."""
        self._source_losses = SourceLosses(sources)
        self._started_at = time.perf_counter()
        self._waited_s = 0.0
        self._loss_sums: list[torch.Tensor] = []
        self._batches: list[tuple[list[str], int]] = []
        self._skipped = 0
        self._bad_keys: list[str] = []
        self._counts = [0, 0, 0, 0]
        self._supervised = 0

    def time_waits(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield `batches`, measuring the time spent waiting for each."""
        iterator = iter(batches)
        while True:
            asked_at = time.perf_counter()
            batch = next(iterator, None)
            self._waited_s += time.perf_counter() - asked_at
            if batch is None:
                return
            yield batch

    def add(self, batch: Batch, loss: BatchLoss) -> None:
        """Count one micro-batch; its losses stay on the device until the step ends."""
        self._source_losses.add(batch, loss)
        self._supervised = batch.supervised_of_step
        self._loss_sums.append(loss.loss_sum.detach().double())
        self._batches.append((sample_keys(batch), batch.num_supervised))
        counts = (
            int((batch.segment_ids > 0).sum()),
            batch.segment_ids.numel(),
            len(batch.pixels),
            sum(hash_key(key) for key in sample_keys(batch)),
        )
        self._counts = [old + new for old, new in zip(self._counts, counts, strict=True)]

    def skip(self, batch: Batch, *, is_cause: bool) -> None:
        """Count a skipped micro-batch; `is_cause` if its own loss on this rank is the reason."""
        self._skipped += 1
        self._bad_keys += sample_keys(batch) if is_cause else []

    def mean_losses(self) -> Iterator[tuple[list[str], float]]:
        """Yield the sample keys and the mean loss per token of each micro-batch of this rank."""
        for (keys, num_supervised), loss_sum in zip(self._batches, self._loss_sums, strict=True):
            yield keys, float(loss_sum) / max(1, num_supervised)

    def sum_over_ranks(self, device: torch.device, *, stop: bool) -> StepTotals:
        """Sum over all ranks in one small all-reduce; every rank gets the same sums."""
        mine = torch.tensor([*self._counts, stop], dtype=torch.float64, device=device)
        by_source = self._source_losses.sums(device)
        sums = torch.cat([torch.stack(self._loss_sums).sum()[None], mine, by_source])
        dist.all_reduce(sums)
        loss_sum, tokens, positions, images, samples, stops, *of_sources = sums.tolist()
        seconds = time.perf_counter() - self._started_at
        return StepTotals(
            loss_sum=loss_sum,
            tokens=tokens,
            positions=positions,
            images=images,
            samples=int(samples),
            supervised=self._supervised,
            stop=stops > 0,
            source_losses=self._source_losses.with_sums(of_sources),
            num_skipped=self._skipped,
            bad_keys=_gather_keys(self._bad_keys) if self._skipped else [],
            seconds=seconds,
            wait_share=self._waited_s / seconds,
        )


def sample_keys(batch: Batch) -> list[str]:
    """Return the keys of all samples of a micro-batch."""
    return [key for row in batch.keys for key in row]


def hash_key(key: str) -> int:
    """Hash a key to 40 bits: sums of thousands of them are exact in float64, the reduced type."""
    return xxhash.xxh3_64_intdigest(key.encode()) >> 24


def _gather_keys(keys: list[str]) -> list[str]:
    gathered: list[list[str]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, keys)
    return [key for of_rank in gathered for key in of_rank]


def peak_memory_gb() -> float:
    """Return the peak memory of this process: on its accelerator, else resident."""
    if torch.accelerator.is_available():
        return float(torch.accelerator.max_memory_allocated()) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
