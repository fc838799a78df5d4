"""The learning rate of each step: linear warm-up, then one of four curves.

Sources: cosine and its warm restarts arXiv:1608.03983; warm-up, stable, decay (WSD)
arXiv:2404.06395, with the linear decay of arXiv:2405.18392.

The rate is a function of the number of the step alone, so a resumed run has it without any state,
and a step that fp16 skips (see `danlu.train.precision`) counts like any other. A run that begins
with the weights of another (a model, an adapter to go on from) is a new run: it warms up again and
has a fresh optimizer.
"""

import math
from collections.abc import Callable

from danlu.config.train import ScheduleName, TrainOptions
from danlu.errors import ConfigError


def scheduled_rate(options: TrainOptions, step: int, steps: int) -> float:
    """Return the rate that optimizer step `step`, counted from 0, of `steps` uses.

    Step 0 of a warm-up has rate 0; the peak comes at the first step after it. Linear, cosine and
    wsd would reach `min_lr_ratio` of the peak at step `steps`, the first that is not made.
    """
    peak, warmup = options.learning_rate, warmup_steps(options, steps)
    if step < warmup:
        return peak * step / warmup
    done = (step - warmup) / max(1, steps - warmup)
    shape = _curves(options, steps, warmup)[options.schedule](done)
    return peak * (options.min_lr_ratio + (1 - options.min_lr_ratio) * shape)


def warmup_steps(options: TrainOptions, steps: int) -> int:
    """Return the steps of warm-up; a part of all steps is rounded up."""
    if options.warmup_ratio is None:
        return options.warmup_steps
    return math.ceil(options.warmup_ratio * steps)


def interval(
    every_steps: int | None, every_epochs: float | None, epoch_steps: float | None
) -> int | None:
    """Return the steps between two events that are given in steps or in epochs, at least 1.

    Args:
        every_steps: counts where `every_epochs` is None.
        every_epochs: passes over the data.
        epoch_steps: steps of one pass, if that is known.

    Raises:
        ConfigError: if epochs are given, and nobody knows how long one is.
    """
    if every_epochs is None:
        return every_steps
    if epoch_steps is None:
        raise ConfigError(
            f"An interval of {every_epochs} epochs is asked for, but this data has no length that "
            "is known beforehand; expected steps. Give eval_every_steps and save_every_steps."
        )
    return max(1, round(every_epochs * epoch_steps))


def _curves(
    options: TrainOptions, steps: int, warmup: int
) -> dict[ScheduleName, Callable[[float], float]]:
    """Return each curve: from the part of the steps after warm-up that is done, 0 to 1, to 1..0."""
    decay = options.decay_ratio * steps / max(1, steps - warmup)  # as a part of those steps
    return {
        "constant": lambda done: 1.0,
        "linear": lambda done: 1.0 - done,
        "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * _in_cycle(done, options.cycles))),
        "wsd": lambda done: min(1.0, (1.0 - done) / decay),
    }


def _in_cycle(done: float, cycles: int) -> float:
    """Return how much of its cycle is done; the very end belongs to the last cycle."""
    return done * cycles - min(int(done * cycles), cycles - 1)
