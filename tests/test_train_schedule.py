"""The learning rate of every step, and options that contradict each other."""

from typing import Any

import pytest

from danlu.config.train import TrainOptions
from danlu.errors import ConfigError
from danlu.train.optimization.schedule import interval, scheduled_rate


def rates(steps: int = 8, **options: Any) -> list[float]:
    chosen = TrainOptions(steps=steps, learning_rate=2.0, **options)
    return [scheduled_rate(chosen, step, steps) for step in range(steps + 1)]


def test_cosine_warms_up_from_zero_and_falls_to_its_minimum() -> None:
    found = rates(warmup_steps=2)
    assert found[:3] == [0.0, 1.0, 2.0]
    assert found[8] == pytest.approx(0.2)
    assert found[2:] == sorted(found[2:], reverse=True)
    assert rates(1)[0] == 2.0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"schedule": "constant"}, [2.0] * 9),
        ({"schedule": "constant", "warmup_steps": 2}, [0.0, 1.0, *[2.0] * 7]),
        ({"schedule": "linear"}, [2.0, 1.75, 1.5, 1.25, 1.0, 0.75, 0.5, 0.25, 0.0]),
        ({"schedule": "linear", "warmup_steps": 4}, [0, 0.5, 1.0, 1.5, 2.0, 1.5, 1.0, 0.5, 0.0]),
        (
            {"schedule": "wsd", "decay_ratio": 0.5, "warmup_ratio": 0.2},
            [0.0, 1.0, 2.0, 2.0, 2.0, 1.5, 1.0, 0.5, 0.0],
        ),
        ({"schedule": "cosine", "cycles": 2}, [2.0, 1.7071, 1.0, 0.2929] * 2 + [0.0]),
    ],
    ids=["constant", "constant-warm", "linear", "linear-warm", "wsd", "restarts"],
)
def test_curves(options: dict[str, Any], expected: list[float]) -> None:
    assert rates(min_lr_ratio=0.0, **options) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("schedule", ["linear", "wsd", "cosine"])
def test_curves_end_at_their_minimum(schedule: str) -> None:
    found = rates(schedule=schedule, min_lr_ratio=0.25)
    assert found[0] == 2.0
    assert found[-1] == pytest.approx(0.5)


def test_a_part_of_the_steps_is_rounded_up() -> None:
    assert rates(10, warmup_ratio=0.11)[:3] == [0.0, 1.0, 2.0]


def test_intervals_are_steps_or_epochs() -> None:
    assert interval(7, None, None) == 7
    assert interval(None, None, None) is None
    assert [interval(200, epochs, 10.0) for epochs in (1.0, 0.25, 0.01)] == [10, 2, 1]
    with pytest.raises(ConfigError, match=r"An interval of 0\.5 epochs is asked for"):
        interval(None, 0.5, None)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"warmup_ratio": 0.1, "warmup_steps": 2}, "either warmup_steps or warmup_ratio"),
        ({"eval_every_steps": 1, "eval_every_epochs": 1.0}, "either eval_every_steps or"),
        ({"save_every_steps": 1, "save_every_epochs": 1.0}, "either save_every_steps or"),
        ({"momentum": 0.8}, "momentum is not read by optimizer adamw, only by muon and sgd"),
        ({"optimizer": "sgd", "eps": 1e-6}, "eps is not read by optimizer sgd"),
        ({"decay_ratio": 0.1}, "decay_ratio is not read by schedule cosine, only by wsd"),
        ({"schedule": "linear", "cycles": 3}, "cycles is not read by schedule linear"),
        ({"patience": 2}, "patience needs best_metric"),
        ({"load_best": False}, "load_best needs best_metric"),
        ({"schedule": "step"}, "'constant', 'linear', 'cosine' or 'wsd'"),
    ],
)
def test_options_that_contradict_each_other_or_that_nothing_reads(
    options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        TrainOptions(steps=4, **options)


def test_all_problems_are_told_at_once_and_a_resolved_file_is_read_again() -> None:
    with pytest.raises(ValueError, match=r"momentum is not read.*; decay_ratio is not read"):
        TrainOptions(steps=4, momentum=0.5, decay_ratio=0.5)
    options = TrainOptions(steps=4, schedule="wsd", decay_ratio=0.5, optimizer="sgd", momentum=0.5)
    assert TrainOptions(**options.model_dump()) == options
