"""Every ZeRO stage with every precision and choice of trained parts, on two processes.

Within one precision and choice the stages give the same losses. The cells that matter run always,
all of them with `make soak`.
"""

import itertools

import pytest

from vchat.train.checkpoints.checkpoint import open_checkpoint
from vchat_testing.training_runs import losses, run_together, training_shards, write_run

pytestmark = pytest.mark.xdist_group("launches")

TRAINED = {
    "full": ['train.parts=["embeddings", "head", "decoder", "projection", "tower"]'],
    "embeddings and projection": ['train.parts=["embeddings", "projection"]'],
    "LoRA": ["model.lora.rank=4", 'train.parts=["embeddings", "projection"]'],
}
TOLERANCE = {"fp32": 1e-5, "bf16": 2e-3}
CELLS = list(itertools.product(TRAINED, TOLERANCE, range(4)))
MATTER = [
    ("full", "bf16", 0),
    ("full", "bf16", 2),
    ("full", "bf16", 3),
    ("embeddings and projection", "bf16", 1),
    ("embeddings and projection", "bf16", 3),
    ("LoRA", "bf16", 2),
    ("LoRA", "bf16", 3),
]


def run_cells(cells, folder) -> dict[tuple[str, str, int], list[float]]:
    """Make the runs of some cells in one launch; returns the losses of each."""
    shards = training_shards(folder / "shards")
    jobs = {}
    for parts, precision, stage in cells:
        run_file = write_run(folder / f"{parts} {precision} {stage}", shards=shards)
        settings = [*TRAINED[parts], f"train.precision={precision}", "run.steps=3"]
        settings += [f"deepspeed.zero_stage={stage}", "run.save_every=3", "run.eval_every=3"]
        jobs[parts, precision, stage] = (run_file, settings)
    run_together(list(jobs.values()), processes=2)
    for run_file, _ in jobs.values():
        assert open_checkpoint(run_file.parent / "out").step == 3
    return {cell: losses(run_file.parent / "out") for cell, (run_file, _) in jobs.items()}


def check_cells(found: dict[tuple[str, str, int], list[float]]) -> None:
    """All train, and those that differ in the stage alone agree."""
    for (parts, precision, stage), values in found.items():
        assert values[-1] < values[0], (parts, precision, stage)
        first = next(v for (p, q, _), v in found.items() if (p, q) == (parts, precision))
        assert values == pytest.approx(first, abs=TOLERANCE[precision]), (parts, precision, stage)


def test_the_cells_that_matter_train_and_save(tmp_path):
    check_cells(run_cells(MATTER, tmp_path))


@pytest.mark.soak
def test_all_cells_train_and_save(tmp_path):
    check_cells(run_cells(CELLS, tmp_path))
