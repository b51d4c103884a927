"""The learning rate as a function of the step."""

import pytest

from vchat.train.config.run import OptimizerConfig
from vchat.train.run.schedule import learning_rate


def rates(**settings):
    optimizer = OptimizerConfig(lr=1.0, **settings)
    return [learning_rate(step, total_steps=10, optimizer=optimizer) for step in range(1, 11)]


def test_warm_up_is_linear_and_ends_at_the_full_rate():
    assert rates(warmup_steps=4, schedule="constant")[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_rate_falls_to_its_floor_at_the_last_step(schedule):
    course = rates(warmup_steps=2, schedule=schedule, final_lr_fraction=0.1)
    assert course[1] == 1.0
    assert course[-1] == pytest.approx(0.1)
    assert course[1:] == sorted(course[1:], reverse=True)


def test_half_way_cosine_and_line_are_at_half():
    assert rates(warmup_steps=2, schedule="cosine")[5] == pytest.approx(0.5)
    assert rates(warmup_steps=2, schedule="linear")[5] == pytest.approx(0.5)
