"""How long the first batch takes after a resume, at 10, 50 and 90 % of a small and a large epoch.

Run: `python bench/resume.py [SAMPLES]` (10 million by default, about 12 GB of memory). The large
index is synthetic: it finds the samples of a small set over and over again. Its plan is made first
and kept on disk; its seconds are given apart. Limit: 0.3 s.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from epoch import peak_gb
from loader_data import our_loader, write_data

from vchat.shards.format.shard_set import ShardSet
from vchat.shards.loading.loader import Loader
from vchat_testing.toy import toy_tokenizer

SMALL = 1_500
ROWS_PER_STEP = 64
LIMIT_S = 0.3


class Repeated(ShardSet):
    """A set whose index lists its samples again and again, as samples of many shards would be."""

    def __init__(self, stored: ShardSet, *, num_samples: int):
        digests = stored.manifest["digests"] | {"index": f"{num_samples} samples"}
        manifest = stored.manifest | {"digests": digests}
        super().__init__(stored.folder, manifest=manifest, store=stored.store)
        few = stored.index("train").select(
            [
                "key",
                "source",
                "text_tokens",
                "supervised_tokens",
                "num_images",
                "image_sizes",
                "shard",
                "members",
            ]
        )
        copies = -(-num_samples // few.num_rows)
        self._repeated = pa.concat_tables([few] * copies).slice(0, num_samples).combine_chunks()
        order = np.argsort(self._repeated["shard"].to_numpy(), kind="stable")
        self._repeated = self._repeated.take(order)

    def index(self, split: str | None = None) -> pa.Table:
        return self._repeated


def print_resumes(loader: Loader, *, num_samples: int) -> None:
    """Print the seconds of the plan, then those of three resumes."""
    began, before_gb = time.perf_counter(), peak_gb()
    plan = loader.plan(0)
    print(
        f"{num_samples:>10} samples: plan {time.perf_counter() - began:.2f} s, memory"
        f" {before_gb:.2f} GB with the index, {peak_gb():.2f} GB at the peak of planning"
    )
    state = loader.state_dict()
    for share in (0.1, 0.5, 0.9):
        steps = int(share * plan.num_steps(ROWS_PER_STEP))
        began = time.perf_counter()
        loader.load_state_dict(state | {"position": steps * ROWS_PER_STEP})
        batches = iter(loader)
        batch = next(batches)
        seconds = time.perf_counter() - began
        assert batch.step == steps
        print(
            f"{num_samples:>10} samples, first batch at {share:.0%}: {seconds:.3f} s, "
            f"{seconds / LIMIT_S:.2f} of the limit"
        )
        del batches


def main() -> None:
    """Print both sizes."""
    num_samples = int(float(sys.argv[1])) if len(sys.argv) > 1 else 10_000_000
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        small = write_data(data, num_samples=SMALL, tokenizer=toy_tokenizer(data / "tokenizer"))
        for shard_set, count in [
            (small, SMALL),
            (Repeated(small, num_samples=num_samples), num_samples),
        ]:
            loader = our_loader(shard_set, rows_per_step=ROWS_PER_STEP, plan_folder=data / "plans")
            print_resumes(loader, num_samples=count)


if __name__ == "__main__":
    main()
