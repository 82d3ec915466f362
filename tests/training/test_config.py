"""Training configurations: schedules, bounds and defaults."""

import math

import pytest

from flyweight.errors import RecipeError
from flyweight.training import TrainingConfig


def test_rate_warms_up_linearly_and_falls_to_zero_by_a_cosine():
    config = TrainingConfig(learning_rate=0.4, warmup=0.1)
    rates = [config.rate(step, 1000) for step in range(1000)]
    assert max(rates) == pytest.approx(0.4)
    assert 95 <= rates.index(max(rates)) <= 105
    assert rates[0] == pytest.approx(0.4 / 101)
    assert rates[-1] < 1e-5
    assert config.rate(550, 1000) == pytest.approx(0.4 * 0.5 * (1 + math.cos(math.pi / 2)))


def test_rate_of_a_constant_schedule_is_the_learning_rate():
    config = TrainingConfig(learning_rate=0.001, schedule="constant", warmup=0.0)
    assert {config.rate(step, 37) for step in range(37)} == {0.001}


def test_rate_of_a_step_schedule_decays_at_each_milestone():
    config = TrainingConfig(
        learning_rate=0.1, schedule="step", warmup=0.0, milestones=(0.5, 0.75), decay=0.1
    )
    rates = [config.rate(step, 8) for step in range(8)]
    assert rates == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001] * 2)


@pytest.mark.parametrize("schedule", ["constant", "step"])
def test_rate_warms_up_under_every_schedule(schedule):
    config = TrainingConfig(learning_rate=0.1, schedule=schedule, warmup=0.2)
    assert [config.rate(step, 20) for step in range(5)] == pytest.approx(
        [0.02, 0.04, 0.06, 0.08, 0.1]
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": -1},
        {"optimizer": "adam"},
        {"learning_rate": 0.0},
        {"schedule": "linear"},
        {"warmup": 1.0},
        {"milestones": (0.7, 0.5)},
        {"decay": 0.0},
        {"label_smoothing": 1.0},
        {"gradient_clip": -1.0},
        {"accumulation_steps": 0},
        {"precision": "fp8"},
        {"temperature": float("nan")},
    ],
)
def test_config_refuses_impossible_values_by_name(wrong):
    with pytest.raises(RecipeError, match=f"training.{next(iter(wrong))}"):
        TrainingConfig(**wrong)
