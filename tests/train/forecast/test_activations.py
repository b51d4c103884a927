"""Memory of activations, measured on narrow twins, against whole models and torch."""

from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from vchat.train.config.model import LoraConfig
from vchat.train.costs.live_bytes import LiveBytes, drop_gradients
from vchat.train.forecast.activations import activation_bytes, own_tower_bytes
from vchat.train.forecast.twin import build_twin, full_rows, measure_activations
from vchat_testing.toy_costs import (
    BATCH,
    QWEN_TOWER,
    run_model,
    twin_settings,
    wide_run,
    with_tower,
    with_training,
)


@pytest.fixture
def config(tmp_path):
    return wide_run(tmp_path)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("parts", [(), ("embeddings", "projection")])
def test_activations_extrapolated_from_narrow_twins_are_those_of_the_whole_model(
    config, checkpointing, parts
):
    config = with_training(config, "fp32", *parts, checkpointing=checkpointing)
    model = run_model(config, device="meta")
    estimate = activation_bytes(model, twin_settings(config), batch=BATCH)
    whole = measure_activations(build_twin(model, twin_settings(config), factor=1, depth=5), BATCH)
    assert estimate == pytest.approx(whole.peak, rel=0.03)


def test_bytes_counted_are_those_that_torch_allocates(config):
    model = run_model(config, device="cpu")
    peak = measure_activations(model, BATCH).peak
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
    config = with_training(with_tower(config, SIGLIP_2), "fp32", "projection", "tower")
    model = run_model(config, device="meta")
    estimate = activation_bytes(model, twin_settings(config), batch=BATCH)
    whole = measure_activations(build_twin(model, twin_settings(config), factor=1, depth=5), BATCH)
    assert estimate == pytest.approx(whole.peak, rel=0.03)


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
    config = with_training(with_tower(config, tower), "fp32", *parts)
    claimed = own_tower_bytes(run_model(config, device="meta"), torch.float32, images=2)
    real = run_model(config, device="cpu").tower
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
    config = with_training(with_tower(config, QWEN_TOWER), "fp32", "projection")
    kept = []
    for of_tower in (False, True):
        lora = LoraConfig(rank=2, tower=of_tower)
        config = replace(config, model=replace(config.model, lora=lora))
        model = run_model(config, device="meta")
        kept.append(own_tower_bytes(model, torch.float32, images=2).kept)
        assert (
            build_twin(model, twin_settings(config), factor=1, depth=1).config.adapters[
                "tower_targets"
            ]
            is None
        )
    assert kept[0] == 0 < kept[1]
