"""Loss and gradients of a step do not depend on who computes them.

That is: world size, micro-batch, accumulation, ZeRO stage and packing. The yardstick is a plain sum
without DeepSpeed.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vchat_testing.training_runs import check_ranks, prepare_deepspeed, training_shards, write_run
from vchat_testing.warm import run_ranks

pytestmark = pytest.mark.xdist_group("launches")

ROWS = ["data.tokens_per_row=288", "batch.rows_per_step=8"]
WIDE = ["data.tokens_per_row=576", "data.images_per_row=7", "batch.rows_per_step=8"]
"""Other packing: the samples of the one step stand in other rows."""

WAYS = {
    "1x4 plain": (1, [*ROWS, "batch.rows_per_micro_batch=2"]),
    "1x8": (1, [*ROWS, "deepspeed.zero_stage=2"]),
    "1x3 wide": (1, [*WIDE, "batch.rows_per_micro_batch=3"]),
    "2x2": (2, [*ROWS, "batch.rows_per_micro_batch=2"]),
    "2x2 stage 2": (2, [*ROWS, "batch.rows_per_micro_batch=2", "deepspeed.zero_stage=2"]),
    "2x4 stage 3 wide": (2, [*WIDE, "deepspeed.zero_stage=3"]),
    "4x1": (4, [*ROWS, "batch.rows_per_micro_batch=2"]),
    "4x2 stage 1 wide": (4, [*WIDE, "deepspeed.zero_stage=1"]),
}


@pytest.fixture(scope="module")
def run_file(tmp_path_factory) -> Path:
    """A run whose training split is one step, some of whose rows carry no weight."""
    folder = tmp_path_factory.mktemp("invariance")
    return write_run(folder, shards=training_shards(folder / "shards", num_train=6))


@pytest.fixture(scope="module")
def measured(run_file) -> dict[str, dict[str, torch.Tensor]]:
    """Way of computing it -> the gradients of the step by parameter, and its loss."""
    for num_processes in (1, 2, 4):
        jobs = {way: settings for way, (num, settings) in WAYS.items() if num == num_processes}
        check_ranks(run_ranks(f"{__file__}:measure", run_file, jobs, processes=num_processes))
    return {way: load_file(run_file.with_name(f"{way}.safetensors")) for way in WAYS}


@pytest.fixture(scope="module")
def plain(run_file) -> dict[str, torch.Tensor]:
    """The same by one loop over one row at a time, without DeepSpeed."""
    prepare_deepspeed()
    from vchat.train.config.run import read_run
    from vchat.train.engine.processes import RankShare
    from vchat.train.engine.starting_model import read_sizes
    from vchat.train.engine.weight_loading import WHOLE
    from vchat.train.run.data import RunData, open_run_shards
    from vchat.train.run.prepare import load_or_build_model

    config = read_run(run_file, overrides=ROWS)
    sets = open_run_shards(config.data, storage=config.storage)
    model = load_or_build_model(
        config.model, sets[0].tokenizer(), seed=config.run.seed, checkpoint=None, loading=WHOLE
    )
    share = RankShare(rank=0, world_size=1)
    sizes = read_sizes(model)
    data = RunData(sets, config.data, config.batch, config.run, sizes=sizes, share=share)
    total = torch.zeros(())
    for batch in data.read_step():
        output = model(
            batch.token_ids,
            batch.pixels,
            position_ids=batch.position_ids,
            segment_ids=batch.segment_ids,
            labels=batch.labels,
        )
        total = total + output.loss / batch.supervised_of_step
    total.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return gradients | {"loss": total.detach()}


@pytest.mark.parametrize("way", WAYS)
def test_the_loss_and_every_gradient_of_a_step_are_the_same(measured, plain, way):
    found = measured[way]
    assert found.keys() == plain.keys()
    assert found["loss"].item() == pytest.approx(plain["loss"].item(), abs=1e-5)
    largest = max(gradient.abs().max().item() for name, gradient in plain.items() if name != "loss")
    for name, gradient in plain.items():
        assert (found[name] - gradient).abs().max() < 1e-5 * max(1.0, largest), name


def measure(run_file: str, jobs: dict[str, list[str]]) -> None:
    """Compute the step in each way with this many processes; rank 0 writes the gradients down."""
    prepare_deepspeed()
    import deepspeed

    from vchat.train.checkpoints.background import Background
    from vchat.train.config.run import read_run
    from vchat.train.engine.engine import batch_loss
    from vchat.train.engine.processes import RankShare, connect_processes
    from vchat.train.run.loop import loss_weight
    from vchat.train.run.prepare import prepare_run

    rank, world_size = connect_processes()
    for way, settings in jobs.items():
        config = read_run(Path(run_file), overrides=settings)
        share = RankShare(rank=rank, world_size=world_size)
        run = prepare_run(config, share, background=Background())
        total = torch.zeros(())
        for batch in run.data.read_step():
            loss = batch_loss(run.engine, batch).loss_sum
            run.engine.backward(loss * loss_weight(run.engine, batch.supervised_of_step))
            total += loss.detach() / batch.supervised_of_step
            if batch.micro_batch < batch.micro_batches - 1:
                run.engine.step()
        torch.distributed.all_reduce(total)
        gradients = {"loss": total}
        for name, parameter in run.engine.module.named_parameters():
            gradient = deepspeed.utils.safe_get_full_grad(parameter)
            gradients[name] = (
                gradient.detach().clone().reshape(parameter.ds_shape)
                if hasattr(parameter, "ds_shape")
                else gradient.detach().clone()
            )
        if rank == 0:
            save_file(gradients, Path(run_file).with_name(f"{way}.safetensors"))
        torch.distributed.barrier()
