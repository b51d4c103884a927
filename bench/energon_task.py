"""How Megatron-Energon reads our shards: one cooker, one collate function, one epoch of batches."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from megatron.energon import (
    Cooker,
    DefaultTaskEncoder,
    WorkerConfig,
    get_loader,
    get_train_dataset,
    stateless,
)

SAMPLES_PER_BATCH = 8


@stateless
def keep_basic_sample_keys(sample: dict[str, Any]) -> dict[str, Any]:
    """Return the members as they are: a cooker that cooks nothing."""
    return sample


def loader_of(
    folder: Path, *, workers: int, decode: Callable[[bytes], np.ndarray], collate: Any
) -> Iterator[Any]:
    """Yield the batches of an endless stream over a prepared folder."""

    class Task(DefaultTaskEncoder):
        decoder = None  # members stay bytes
        cookers: ClassVar = [Cooker(keep_basic_sample_keys)]

        @stateless
        def encode_sample(self, sample: dict[str, Any]) -> Any:
            images = [sample[name] for name in sorted(sample) if name.endswith("jpg")]
            ids = sample["tokens.npy"]
            ids = np.load(io.BytesIO(ids)) if isinstance(ids, bytes) else ids
            return np.asarray(ids), np.stack([decode(one) for one in images])

        def batch(self, samples: list[Any]) -> Any:
            return collate(samples)

    dataset = get_train_dataset(
        folder,
        batch_size=SAMPLES_PER_BATCH,
        shuffle_buffer_size=500,
        max_samples_per_sequence=100,
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=workers),
        task_encoder=Task(),
    )
    yield from get_loader(dataset)
