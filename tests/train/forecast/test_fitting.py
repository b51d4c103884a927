"""The settings that make a run fit."""

import pytest

from vchat.train.forecast.fitting import judge_fit
from vchat_testing.toy_costs import wide_run


@pytest.fixture
def config(tmp_path):
    return wide_run(tmp_path)


def test_the_fewest_and_cheapest_changes_that_fit_are_named(config):
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
