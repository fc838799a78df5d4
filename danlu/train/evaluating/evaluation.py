"""What is evaluated while a model is trained, and when.

An evaluation never changes what is trained: the decoder is in evaluation mode, and the random
generators come back as they were, so a run has the same bytes whether and whatever it evaluates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch

from danlu.errors import ConfigError, did_you_mean
from danlu.models.decoder import Decoder
from danlu.train.evaluating.held_out import held_out_metrics
from danlu.train.objective import Measuring, Objective
from danlu.train.rng import unchanged_rng

B = TypeVar("B")


@dataclass(frozen=True)
class Evaluated:
    """What evaluations found.

    Attributes:
        numbers: for metrics.jsonl, by name.
        samples: rows for samples.jsonl.
    """

    numbers: Mapping[str, float] = field(default_factory=dict)
    samples: Sequence[Mapping[str, Any]] = ()


class Evaluation(Protocol):
    """Something that a model in training is measured by, such as the answers it writes."""

    @property
    def every_steps(self) -> int | None:
        """Steps between two evaluations; None: as often as the held-out loss."""

    @property
    def names(self) -> Sequence[str]:
        """The names of the numbers it will find."""

    def evaluate(self, decoder: Decoder, step: int) -> Evaluated:
        """Return what it finds after a step; the decoder is in evaluation mode."""


class HeldOut(Generic[B]):
    """The loss on held-out batches, and what else the objective tells about them.

    Args:
        objective: what the run trains.
        batches: at least one.
    """

    every_steps = None

    def __init__(self, objective: Objective[B], batches: Sequence[B]) -> None:
        self._objective, self._batches = objective, batches

    @property
    def names(self) -> Sequence[str]:
        """The names of its numbers; an objective that measures more adds to them."""
        return ("held_out_loss", "held_out_perplexity", "held_out_accuracy")

    def evaluate(self, decoder: Decoder, step: int) -> Evaluated:
        """Return the mean loss per target and what goes with it.

        Raises:
            TrainingError: if the loss is not finite.
        """
        return Evaluated(held_out_metrics(decoder, self._objective, self._batches))


class Evaluator:
    """Runs the evaluations that are due.

    Args:
        decoder: the model in training.
        evaluations: all of them.
        every_steps: steps between those that do not say so themselves; None: only at the end.
    """

    def __init__(
        self, decoder: Decoder, evaluations: Sequence[Evaluation], every_steps: int | None
    ) -> None:
        self._decoder = decoder
        self._evaluations = evaluations
        self._every_steps = every_steps

    def due(self, step: int) -> list[Evaluation]:
        """Return the evaluations that come after this step."""
        every = [(e, e.every_steps or self._every_steps) for e in self._evaluations]
        return [evaluation for evaluation, steps in every if steps and step % steps == 0]

    def others(self, done: Sequence[Evaluation]) -> list[Evaluation]:
        """Return the evaluations that are not among `done`."""
        return [evaluation for evaluation in self._evaluations if evaluation not in done]

    def run(self, evaluations: Sequence[Evaluation], step: int) -> Evaluated:
        """Return what they find, together."""
        if not evaluations:
            return Evaluated()
        was_training = self._decoder.training
        self._decoder.eval()
        try:
            with unchanged_rng(), torch.no_grad():
                found = [evaluation.evaluate(self._decoder, step) for evaluation in evaluations]
        finally:
            self._decoder.train(was_training)
        numbers = {name: value for one in found for name, value in one.numbers.items()}
        return Evaluated(numbers, [sample for one in found for sample in one.samples])


def check_best_metric(
    metric: str | None, evaluations: Sequence[Evaluation], objective: Objective[Any]
) -> None:
    """Refuse to compare evaluations by a number that none of them finds.

    What an objective measures besides is only known afterwards, so any held-out number may be its.

    Raises:
        ConfigError: with the closest name.
    """
    known = [name for evaluation in evaluations for name in evaluation.names]
    if metric is None or metric in known:
        return
    has_held_out = any(isinstance(evaluation, HeldOut) for evaluation in evaluations)
    if has_held_out and metric.startswith("held_out_") and isinstance(objective, Measuring):
        return
    found = ", ".join(known) if known else "none: there is no held-out data and no evaluation"
    raise ConfigError(
        f"train.best_metric is {metric!r}; expected a number that this run evaluates: {found}."
        f"{did_you_mean(metric, known)}"
    )
