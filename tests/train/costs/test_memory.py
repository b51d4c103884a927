"""Memory and operations that `vchat-train plan` foretells, against DeepSpeed, torch and reality."""

from dataclasses import replace

import pytest
import torch
from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from vchat.train.config.model import LoraConfig
from vchat.train.config.run import DeepSpeedConfig, read_run
from vchat.train.costs.flops import flops_of
from vchat.train.costs.gpus import GPUS, find_gpu
from vchat.train.costs.live_bytes import LiveBytes, drop_gradients
from vchat.train.costs.memory import WeightCounts, state_memory, weight_counts
from vchat.train.engine.parts import freeze_other_parts
from vchat.train.engine.starting_model import build_model
from vchat.train.forecast.activations import (
    MicroBatch,
    activation_bytes,
    build_twin,
    full_rows,
    measure,
    own_tower_bytes,
)
from vchat.train.forecast.fitting import judge_fit
from vchat_testing.training_runs import RUN_TOML

NUM_IDS = 300
BATCH = MicroBatch(rows=2, positions=512, images=8, supervised=16)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "RUN.toml"
    path.write_text(RUN_TOML.format(shards="none", out="out"))
    wider = ("hidden_size=128", "intermediate_size=192", "num_hidden_layers=5")
    settings = [f"model.decoder.{setting}" for setting in (*wider, "num_attention_heads=4")]
    return read_run(path, overrides=settings)


def built(config, *, device):
    with torch.device(device):
        model = build_model(config.model, image_token_id=7, num_ids=NUM_IDS, seed=0)
    freeze_other_parts(model, config.train.parts)
    return model


def of_precision(config, precision, *parts, checkpointing=False):
    train = {"precision": precision, "gradient_checkpointing": checkpointing}
    return replace(config, train=replace(config.train, **train, parts=parts or config.train.parts))


@pytest.mark.parametrize("num_gpus", [1, 8])
@pytest.mark.parametrize("offload", ["none", "cpu"])
def test_a_model_trained_whole_in_16_bits_takes_what_deepspeed_estimates(num_gpus, offload):
    counts = WeightCounts(total=7_000_000, trained=7_000_000, largest_module=1_000_000)
    setting = {"num_gpus_per_node": num_gpus, "cpu_offload": offload == "cpu"}
    at_2, at_3 = (
        state_memory(
            counts,
            precision="bf16",
            sharding=DeepSpeedConfig(zero_stage=stage, offload_optimizer=offload),
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
    state = state_memory(counts, precision="bf16", sharding=DeepSpeedConfig(), num_gpus=4)
    assert (state.weights, state.gradients, state.optimizer) == (2000, 600, 1200)


def test_parameters_are_counted_as_the_built_model_has_them(config):
    config = of_precision(config, "fp32", "embeddings", "projection")
    real, without_memory = built(config, device="cpu"), built(config, device="meta")
    assert weight_counts(real) == weight_counts(without_memory)
    assert weight_counts(real).total == sum(p.numel() for p in real.parameters())
    trained = [p for p in real.parameters() if p.requires_grad]
    assert 0 < weight_counts(real).trained == sum(p.numel() for p in trained)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("parts", [(), ("embeddings", "projection")])
def test_activations_drawn_from_narrow_twins_are_those_of_the_whole_model(
    config, checkpointing, parts
):
    config = of_precision(config, "fp32", *parts, checkpointing=checkpointing)
    model = built(config, device="meta")
    estimate = activation_bytes(model, config, batch=BATCH)
    whole = measure(build_twin(model, config, factor=1, depth=5), BATCH)
    assert estimate == pytest.approx(whole.peak, rel=0.03)


def test_bytes_counted_are_those_that_torch_allocates(config):
    model = built(config, device="cpu")
    peak = measure(model, BATCH).peak
    model.zero_grad()
    inputs = full_rows(model, BATCH)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        model(**inputs).loss.backward()
    events = sorted(
        (e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"),
        key=lambda event: event.start_ns(),
    )
    now = most = 0
    for event in events:
        now += event.nbytes()
        most = max(most, now)
    assert peak == pytest.approx(most, rel=0.05)


SIGLIP_2 = {
    "model_type": "siglip2_vision_model",
    "num_patches": 16,
    "patch_size": 8,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}


def test_a_trained_tower_of_siglip_2_is_measured_in_the_twin(config):
    config = of_precision(with_tower(config, SIGLIP_2), "fp32", "projection", "tower")
    model = built(config, device="meta")
    estimate = activation_bytes(model, config, batch=BATCH)
    whole = measure(build_twin(model, config, factor=1, depth=5), BATCH)
    assert estimate == pytest.approx(whole.peak, rel=0.03)


QWEN_TOWER = {
    "model_type": "qwen_vl_visual",
    "image_size": 32,
    "patch_size": 8,
    "patch_width": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 96,
    "num_table_positions": 4,
    "num_queries": 4,
    "hidden_size": 64,
    "resampler_head_width": 16,
}


def with_tower(config, tower):
    return replace(config, model=replace(config.model, tower=tower or config.model.tower))


OPEN_CLIP = {"model_type": "open_clip", "name": "ViT-M-32-alt"}


@pytest.mark.parametrize(
    ("tower", "parts"),
    [
        (QWEN_TOWER, ("projection",)),
        (QWEN_TOWER, ("projection", "tower")),
        (OPEN_CLIP, ("projection", "tower")),
    ],
)
def test_a_tower_without_a_narrow_twin_takes_what_it_takes_on_tensors_with_memory(
    config, tower, parts
):
    config = of_precision(with_tower(config, tower), "fp32", *parts)
    claimed = own_tower_bytes(built(config, device="meta"), config, images=2)
    real = built(config, device="cpu").tower
    pixels = torch.zeros(2, 3, real.image_size, real.image_size, dtype=torch.uint8)
    live = LiveBytes()
    live.ignore([*real.parameters(), *real.buffers()])
    drop_gradients(real)
    with live:
        features = real(pixels)
        kept = live.now - features.nbytes
        if "tower" in parts:
            features.sum().backward()
    assert claimed.kept == pytest.approx(kept, abs=2000)
    assert claimed.peak == pytest.approx(live.peak, rel=0.02)
    assert (claimed.kept > 10 * features.nbytes) == ("tower" in parts)


def test_adapters_on_a_tower_without_a_narrow_twin_are_measured_in_it_and_not_in_the_twin(config):
    config = of_precision(with_tower(config, QWEN_TOWER), "fp32", "projection")
    kept = []
    for of_tower in (False, True):
        lora = LoraConfig(rank=2, tower=of_tower)
        config = replace(config, model=replace(config.model, lora=lora))
        model = built(config, device="meta")
        kept.append(own_tower_bytes(model, config, images=2).kept)
        assert build_twin(model, config, factor=1, depth=1).config.adapters["tower_targets"] is None
    assert kept[0] == 0 < kept[1]


def test_weights_in_four_bits_are_counted_as_the_bytes_that_hold_them(config):
    quantised = replace(config.model, lora=LoraConfig(rank=2, four_bit=True))
    config = of_precision(replace(config, model=quantised), "fp32", "projection")
    real = built(config, device="cpu")
    counts = weight_counts(built(config, device="meta"))
    held = sum(p.nbytes for p in real.parameters())
    held += sum(b.nbytes for name, b in real.named_buffers() if "codes" in name or "scale" in name)
    of_one, of_two = (
        state_memory(counts, precision="fp32", sharding=DeepSpeedConfig(zero_stage=3), num_gpus=n)
        for n in (1, 2)
    )
    assert of_one.weights == held
    assert counts.four_bit_bytes / counts.four_bit == pytest.approx(4.5 / 8, rel=0.01)
    assert of_one.weights - of_two.weights == (held - counts.four_bit_bytes) / 2
    real.merge()
    assert counts.total - counts.trained == sum(
        p.numel() for name, p in real.named_parameters() if not name.startswith("projection")
    )


@pytest.mark.parametrize(
    ("tower", "lora"), [(None, None), (QWEN_TOWER, None), (None, LoraConfig(rank=2, four_bit=True))]
)
def test_operations_are_those_that_torch_counts(config, tower, lora):
    config = with_tower(config, tower)
    config = replace(config, model=replace(config.model, attention="causal", lora=lora))
    if lora is not None:
        config = of_precision(config, "fp32", "embeddings", "projection")
    model = built(config, device="cpu")
    inputs = full_rows(model, BATCH)
    counted = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counted:  # the fused kernel is not counted on a CPU
        model(**inputs).loss.backward()
    pairs = BATCH.rows * BATCH.positions**2
    total = flops_of(model).total(
        positions=BATCH.rows * BATCH.positions,
        pairs=pairs,  # torch counts a causal mask as none
        supervised=BATCH.supervised,
        images=BATCH.images,
    )
    assert total == pytest.approx(counted.get_total_flops(), rel=0.05)


def test_the_fewest_and_gentlest_changes_that_fit_are_named(config):
    def needed(other, num_gpus):
        saved = 3 * other.train.gradient_checkpointing + 2 * other.deepspeed.zero_stage
        return (12 - saved) * 10**9 // num_gpus

    at_8 = judge_fit(config, needed, gpu_memory_gb=11.2, num_gpus=1)
    assert [change.setting for change in at_8.changes] == ["train.gradient_checkpointing=true"]
    assert (at_8.fits, at_8.needed_after, at_8.gpus) == (False, 9 * 10**9, 2)
    at_4 = judge_fit(config, needed, gpu_memory_gb=5, num_gpus=1)
    assert [change.setting for change in at_4.changes] == [
        "train.gradient_checkpointing=true",
        "deepspeed.zero_stage=3",
    ]
    assert judge_fit(config, needed, gpu_memory_gb=20, num_gpus=1).changes == ()


def test_a_gpu_is_found_by_what_its_driver_calls_it():
    assert find_gpu("NVIDIA A100-SXM4-80GB") is GPUS["A100-80GB"]
    assert find_gpu("NVIDIA H100 PCIe") is GPUS["H100-PCIe"]
    assert find_gpu("Tesla V100-SXM2-32GB") is GPUS["V100"]
    assert find_gpu("NVIDIA GeForce RTX 4090") is GPUS["RTX-4090"]
    assert find_gpu("an unknown one") is None
