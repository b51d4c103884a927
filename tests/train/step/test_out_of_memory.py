"""Running out of memory names the rows that were too much."""

import pytest
import torch

from vchat.shards.loading.collate import Batch
from vchat_testing.training_runs import prepare_deepspeed, run_here, training_shards, write_run


def batch(*keys: list[str]) -> Batch:
    empty = torch.zeros(len(keys), 16, dtype=torch.long)
    return Batch(
        pixels=torch.zeros(3, 3, 8, 8, dtype=torch.uint8),
        token_ids=empty,
        labels=empty,
        position_ids=empty,
        segment_ids=empty,
        keys=list(keys),
        num_supervised=0,
        micro_batch=1,
        micro_batches=4,
    )


def test_rows_and_samples_are_named_when_the_allocator_fails():
    from vchat.train.step.out_of_memory import explain_out_of_memory

    message = (
        r"step 7, micro-batch 2 of 4: out of memory with 2 rows of 16 positions and 3 images "
        r"\(row 0: a/1, a/2; row 1: b/3\); a smaller batch.rows_per_micro_batch"
    )
    with (
        pytest.raises(MemoryError, match=message),
        explain_out_of_memory(batch(["a/1", "a/2"], ["b/3"]), step=7),
    ):
        torch.empty(1 << 60, dtype=torch.uint8)


def test_an_accelerator_out_of_memory_is_explained_too_and_long_rows_are_cut():
    from vchat.train.step.out_of_memory import explain_out_of_memory

    keys = [f"s/{number}" for number in range(30)]
    with (
        pytest.raises(MemoryError, match=r"s/19, and 10 more; row 1: and 1 more; row 2: no sample"),
        explain_out_of_memory(batch(keys, ["t/1"], []), step=1),
    ):
        raise torch.OutOfMemoryError("tried to allocate 2.00 GiB")


def test_another_error_keeps_its_message():
    from vchat.train.step.out_of_memory import explain_out_of_memory

    with (
        pytest.raises(RuntimeError, match="size mismatch"),
        explain_out_of_memory(batch(["a"]), step=1),
    ):
        raise RuntimeError("size mismatch")


def test_a_run_out_of_memory_names_its_samples(tmp_path, monkeypatch):
    prepare_deepspeed()
    from vchat.train.step import bad_loss

    def too_much(engine, batch):
        return torch.empty(1 << 60, dtype=torch.uint8)

    monkeypatch.setattr(bad_loss, "batch_loss", too_much)
    run_file = write_run(tmp_path, shards=training_shards(tmp_path / "shards"))
    with pytest.raises(MemoryError, match=r"step 1, micro-batch 1 of 5: .*row 0: toy/train/"):
        run_here(run_file)
