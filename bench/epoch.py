"""Plan an epoch of many samples: seconds, memory, fill, against padding each dialogue alone.

Run: `python bench/epoch.py [SAMPLES]` (10 million by default; 100 million need 8 GB). The index is
synthetic: dialogues of 1 to 8 images of 257 positions with about 140 text tokens per image, 5,000
samples a shard, rows of 4,096 positions. CPU seconds count all threads; they hold on a busy
machine, wall seconds do not.
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np

from vchat.shards.plan.arguments import PlanArguments
from vchat.shards.plan.epoch import plan_epoch
from vchat.shards.plan.ordering import TextColumn
from vchat.shards.plan.plan_index import PlanIndex
from vchat.shards.plan.summary import summarize_plan

SAMPLES_PER_SHARD = 5_000
TOKENS_PER_ROW = 4_096
POSITIONS_PER_IMAGE = 257
KEY_LENGTH = 18
DRAWN_AT_ONCE = 1 << 20
ROWS_PER_BATCH = 8


def synthetic_index(num_samples: int) -> PlanIndex:
    """Return an index with lengths as the published mix has them and keys of 18 digits."""
    rng = np.random.default_rng(0)
    images = np.empty(num_samples, np.int32)
    text = np.empty(num_samples, np.int32)
    digits = np.empty(num_samples * KEY_LENGTH, np.uint8)
    for start in range(0, num_samples, DRAWN_AT_ONCE):
        count = min(DRAWN_AT_ONCE, num_samples - start)
        drawn = rng.choice([1, 2, 3, 4, 8], p=[0.45, 0.3, 0.15, 0.08, 0.02], size=count)
        images[start : start + count] = drawn
        lengths = rng.lognormal(4.9, 0.6, size=count) * drawn + 60
        text[start : start + count] = lengths.clip(1, 2000)
        keys = rng.integers(ord("0"), ord("9") + 1, size=count * KEY_LENGTH, dtype=np.uint8)
        digits[start * KEY_LENGTH : (start + count) * KEY_LENGTH] = keys
    shard = np.arange(num_samples, dtype=np.int32) // SAMPLES_PER_SHARD
    return PlanIndex(
        digest="synthetic",
        keys=TextColumn(digits, np.arange(num_samples + 1, dtype=np.int64) * KEY_LENGTH),
        sources=("synthetic",),
        source=np.zeros(num_samples, np.int32),
        text_tokens=text,
        supervised_tokens=text // 2,
        num_images=images,
        image_sizes=np.full((int(images.sum(dtype=np.int64)), 2), 224, np.uint16),
        shard=shard,
        set_of_shard=np.zeros(int(shard[-1]) + 1, np.int32),
    )


def longest_of_batch_fill(lengths: np.ndarray) -> float:
    """Return the share of positions used when batches of 8 are padded to their longest."""
    batches = lengths[: len(lengths) // ROWS_PER_BATCH * ROWS_PER_BATCH].reshape(-1, ROWS_PER_BATCH)
    return float(batches.sum() / (batches.max(axis=1).sum() * ROWS_PER_BATCH))


def peak_gb() -> float:
    """Return the most memory the process has held, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    """Print one line of measurements per question."""
    num_samples = int(float(sys.argv[1])) if len(sys.argv) > 1 else 10_000_000
    index = synthetic_index(num_samples)
    arguments = PlanArguments(
        split="train",
        seed=1,
        epoch=0,
        tokens_per_row=TOKENS_PER_ROW,
        images_per_row=16,
        positions_per_image=POSITIONS_PER_IMAGE,
        shuffle_window_shards=8,
        lanes=16,
    )
    before_gb = peak_gb()
    wall, cpu = time.perf_counter(), time.process_time()
    plan = plan_epoch(index, arguments)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        f"plan of {num_samples} samples: {wall:.1f} s ({cpu:.1f} s CPU), target 10 s per 10 million"
    )
    print(f"memory: {before_gb:.2f} GB with the index, {peak_gb():.2f} GB at the peak of planning")
    summary = summarize_plan(plan, rows_per_step=64)
    lengths = index.text_tokens + POSITIONS_PER_IMAGE * index.num_images
    print(f"positions filled: {summary.fill_of_rows:.4f} packed (target 0.98), ", end="")
    print(f"{longest_of_batch_fill(lengths):.4f} padded to the longest of {ROWS_PER_BATCH}")
    print(f"displacement {summary.displacement:.3f} (uniform 0.333), ", end="")
    print(f"{summary.shards_per_step:.1f} shards in a step of 64 rows")


if __name__ == "__main__":
    main()
