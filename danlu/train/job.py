"""What one training run is about, and what came of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from danlu.config.train import TrainOptions
from danlu.models.decoder import Decoder
from danlu.train.checkpoint import Counters
from danlu.train.evaluating.best import Best
from danlu.train.evaluating.evaluation import Evaluation
from danlu.train.objective import Objective
from danlu.train.precision import Masters
from danlu.train.source import BatchSource

B = TypeVar("B")


@dataclass(frozen=True)
class Job(Generic[B]):
    """Everything that one training run is about.

    Attributes:
        decoder: the model; its parameters that require a gradient are trained.
        masters: its trainable weights in float32.
        objective: turns a batch into a loss.
        source: gives the micro-batches of each step.
        held_out: batches that are only evaluated on; may be empty.
        options: how to train; `steps` and `epochs` in it are not looked at.
        steps: optimizer steps.
        seed: of every random generator that training draws from.
        evaluations: what else is evaluated on the way.
        lr_scales: what the learning rate of a weight is multiplied by, where it is not 1.
        epoch_steps: steps of one pass over the data, for options that are given in epochs.
    """

    decoder: Decoder
    masters: Masters
    objective: Objective[B]
    source: BatchSource[B]
    held_out: Sequence[B]
    options: TrainOptions
    steps: int
    seed: int
    evaluations: Sequence[Evaluation] = ()
    lr_scales: Mapping[str, float] = field(default_factory=dict)
    epoch_steps: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        counters: how far it is.
        resumed_from: step of the checkpoint it went on from, or None.
        best: the best evaluation, if the run compares them.
    """

    counters: Counters
    resumed_from: int | None
    best: Best | None = None
