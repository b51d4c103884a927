"""What happens to a sample that cannot be read: stop, or deliver it empty and count it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from vchat.shards.storage.store import ShardError

MAX_LOGGED = 10
"""Skipped samples of an epoch that are logged one by one."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultPolicy:
    """Raises or counts the faults of delivered samples. Used by one thread."""

    on_fault: Literal["raise", "skip"]
    max_skipped: int
    """The most skipped samples in an epoch; one more is an error."""

    num_skipped: Counter[int] = field(default_factory=Counter)
    """Skipped samples by epoch."""

    def handle(self, faults: Sequence[ShardError], *, epoch: int) -> None:
        """Count the faults of samples that are delivered empty.

        Raises:
            ShardError: the first fault, under `on_fault = "raise"`.
            ValueError: more than `max_skipped` in this epoch.
        """
        for fault in faults:
            if self.on_fault == "raise":
                raise fault
            self.num_skipped[epoch] += 1
            num_skipped = self.num_skipped[epoch]
            if num_skipped <= MAX_LOGGED:
                log.warning("skipped, number %d of epoch %d: %s", num_skipped, epoch, fault)
            if num_skipped > self.max_skipped:
                raise ValueError(
                    f"more than {self.max_skipped} samples skipped in epoch {epoch}"
                ) from fault
