"""What a model is trained for: an objective turns a batch into a summed loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from danlu.data.batch import IGNORE, Batch
from danlu.models.decoder import Decoder
from danlu.train.loss import head_loss, head_scores

B_contra = TypeVar("B_contra", contravariant=True)


class Objective(Protocol[B_contra]):
    """The seam of every training method (STYLE section 3)."""

    def loss(self, model: Decoder, batch: B_contra) -> tuple[Tensor, int | float]:
        """Return the loss summed over the batch (float32 scalar) and how many terms it sums.

        Where terms have weights, the sum of these stands for how many there are.

        The loop divides by the terms of the whole global batch, so the result never depends on
        how that batch was split.
        """


@runtime_checkable
class WholeStep(Protocol[B_contra]):
    """An objective that looks at a whole global batch before it sees the parts."""

    def begin_step(self, model: Decoder, batches: Sequence[B_contra]) -> None:
        """Take note of the batches that `loss` is called with next, all of one global batch."""


@runtime_checkable
class Measuring(Protocol):
    """An objective that measures more than its loss, which is no cross-entropy then."""

    def take_metrics(self) -> dict[str, float]:
        """Return the means over all batches since the last call, and forget them."""


@dataclass(frozen=True)
class Scores:
    """How well a batch is predicted.

    Attributes:
        loss: the objective's loss, summed (float32 scalar).
        terms: how many terms it sums, or the sum of their weights.
        hits: how many targets score highest (int64 scalar).
        targets: of how many.
    """

    loss: Tensor
    terms: int | float
    hits: Tensor
    targets: int


@runtime_checkable
class Scoring(Protocol[B_contra]):
    """An objective that predicts tokens, and can tell how many it gets right."""

    def scores(self, model: Decoder, batch: B_contra) -> Scores:
        """Return how well a batch is predicted; called without gradients."""


def begin_step(objective: Objective[Any], model: Decoder, batches: Sequence[Any]) -> None:
    """Show the objective a whole global batch, if it wants to see one."""
    if isinstance(objective, WholeStep):
        objective.begin_step(model, batches)


def take_metrics(objective: Objective[Any]) -> dict[str, float] | None:
    """Return what the objective measured beside its loss; None if it measures nothing else."""
    return objective.take_metrics() if isinstance(objective, Measuring) else None


class CausalLM:
    """Next-token prediction on packed rows: pre-training, and SFT where the targets are masked."""

    def loss(self, model: Decoder, batch: Batch) -> tuple[Tensor, int | float]:
        """Return the summed cross-entropy in nats and the number (or weight) of the targets."""
        hidden_BTD = model.packed_hidden(batch.tokens_BT, batch.documents_BT)
        loss = head_loss(model, hidden_BTD, batch.targets_BT, batch.weights_BT)
        return loss, batch.num_targets

    def scores(self, model: Decoder, batch: Batch) -> Scores:
        """Return how well a batch is predicted; its loss is that of `loss`."""
        hidden_BTD = model.packed_hidden(batch.tokens_BT, batch.documents_BT)
        loss, hits = head_scores(model, hidden_BTD, batch.targets_BT, batch.weights_BT)
        targets = int((batch.targets_BT != IGNORE).sum())
        return Scores(loss, batch.num_targets, hits, targets)
