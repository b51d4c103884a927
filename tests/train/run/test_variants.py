"""Precisions, frozen parts, offloading: each variant trains, saves and goes on exactly."""

import shutil

import pytest

from vchat_testing.training_runs import (
    log_of,
    losses,
    prepare_deepspeed,
    run_here,
    training_shards,
    write_run,
)

VARIANTS = {
    "bf16": ["train.precision=bf16"],
    "bf16 sharded, checkpointed": [
        "train.precision=bf16",
        "train.gradient_checkpointing=true",
        "deepspeed.zero_stage=3",
    ],
    "published parts": ['train.parts=["embeddings", "projection"]', "optimizer.embedding_lr=1e-3"],
    "published parts sharded": [
        'train.parts=["embeddings", "projection"]',
        "deepspeed.zero_stage=3",
    ],
    "offloaded": ["deepspeed.zero_stage=2", "deepspeed.offload_optimizer=cpu"],
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return training_shards(tmp_path_factory.mktemp("shards"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_trains_and_resumes_with_exactly_equal_losses(shards, tmp_path, variant):
    run_file, out = write_run(tmp_path, shards=shards), tmp_path / "out"
    settings = [*VARIANTS[variant], "run.steps=4", "run.save_every=2", "run.eval_every=0"]
    run_here(run_file, *settings)
    first = losses(out)
    assert first[-1] < first[0]
    shutil.rmtree(out / "step-000004")
    run_here(run_file, *settings)
    assert losses(out) == first
    assert len(log_of(out)) == 4


def test_frozen_weights_do_not_move(shards, tmp_path):
    run_file = write_run(tmp_path, shards=shards)
    run_here(run_file, *VARIANTS["published parts"], "run.steps=2", "run.save_every=1")
    prepare_deepspeed()
    from vchat.train.engine.starting_model import load_model

    before, after = (load_model(tmp_path / "out" / f"step-00000{step}") for step in (1, 2))
    moved = {
        name
        for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True)
        if not old.equal(new)
    }
    assert moved
    assert all("embed_tokens" in name or name.startswith("projection") for name in moved)
