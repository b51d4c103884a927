"""Memory of weights, gradients and optimizer, against DeepSpeed and models with memory."""

from dataclasses import replace

import pytest
from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

from vchat.train.config.model import LoraConfig
from vchat.train.costs.memory import WeightCounts, state_memory, weight_counts
from vchat_testing.toy_costs import run_model, wide_run, with_training


@pytest.fixture
def config(tmp_path):
    return wide_run(tmp_path)


@pytest.mark.parametrize("num_gpus", [1, 8])
@pytest.mark.parametrize("offloads", [False, True])
def test_a_model_trained_whole_in_16_bits_takes_what_deepspeed_estimates(num_gpus, offloads):
    counts = WeightCounts(total=7_000_000, trained=7_000_000, largest_module=1_000_000)
    setting = {"num_gpus_per_node": num_gpus, "cpu_offload": offloads}
    at_2, at_3 = (
        state_memory(
            counts,
            precision="bf16",
            zero_stage=stage,
            offloads_optimizer=offloads,
            num_gpus=num_gpus,
        ).on_gpu
        for stage in (2, 3)
    )
    assert at_2 == estimate_zero2_model_states_mem_needs(7_000_000, **setting)[1]
    wanted = estimate_zero3_model_states_mem_needs(
        7_000_000, 1_000_000, cpu_offload_params=False, **setting
    )
    assert at_3 == wanted[1]


def test_frozen_weights_have_neither_gradient_nor_optimizer_state():
    counts = WeightCounts(total=1000, trained=100, largest_module=10)
    state = state_memory(counts, precision="bf16", zero_stage=0, num_gpus=4)
    assert (state.weights, state.gradients, state.optimizer) == (2000, 600, 1200)


def test_parameters_are_counted_as_the_built_model_has_them(config):
    config = with_training(config, "fp32", "embeddings", "projection")
    real, without_memory = run_model(config, device="cpu"), run_model(config, device="meta")
    assert weight_counts(real) == weight_counts(without_memory)
    assert weight_counts(real).total == sum(p.numel() for p in real.parameters())
    trained = [p for p in real.parameters() if p.requires_grad]
    assert 0 < weight_counts(real).trained == sum(p.numel() for p in trained)


def test_weights_in_four_bits_are_counted_as_the_bytes_that_hold_them(config):
    quantised = replace(config.model, lora=LoraConfig(rank=2, four_bit=True))
    config = with_training(replace(config, model=quantised), "fp32", "projection")
    real = run_model(config, device="cpu")
    counts = weight_counts(run_model(config, device="meta"))
    held = sum(p.nbytes for p in real.parameters())
    held += sum(b.nbytes for name, b in real.named_buffers() if "codes" in name or "scale" in name)
    of_one, of_two = (
        state_memory(counts, precision="fp32", zero_stage=3, num_gpus=n) for n in (1, 2)
    )
    assert of_one.weights == held
    assert counts.four_bit_bytes / counts.four_bit == pytest.approx(4.5 / 8, rel=0.01)
    assert of_one.weights - of_two.weights == (held - counts.four_bit_bytes) / 2
    real.merge()
    assert counts.total - counts.trained == sum(
        p.numel() for name, p in real.named_parameters() if not name.startswith("projection")
    )
