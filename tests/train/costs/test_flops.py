"""Operations, against those that torch counts."""

from dataclasses import replace

import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vchat.train.config.model import LoraConfig
from vchat.train.costs.flops import flops_of
from vchat.train.forecast.twin import full_rows
from vchat_testing.toy_costs import (
    BATCH,
    QWEN_TOWER,
    run_model,
    wide_run,
    with_tower,
    with_training,
)


@pytest.fixture
def config(tmp_path):
    return wide_run(tmp_path)


@pytest.mark.parametrize(
    ("tower", "lora"), [(None, None), (QWEN_TOWER, None), (None, LoraConfig(rank=2, four_bit=True))]
)
def test_operations_are_those_that_torch_counts(config, tower, lora):
    config = with_tower(config, tower)
    config = replace(config, model=replace(config.model, attention="causal", lora=lora))
    if lora is not None:
        config = with_training(config, "fp32", "embeddings", "projection")
    model = run_model(config, device="cpu")
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
