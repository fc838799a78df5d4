"""The loss on data that is never trained on."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from danlu.errors import TrainingError
from danlu.models.decoder import Decoder
from danlu.train.objective import Objective, Scoring, begin_step, take_metrics

B = TypeVar("B")
_MAX_EXPONENT = 700.0  # exp of more overflows


def held_out_metrics(
    decoder: Decoder, objective: Objective[B], batches: Sequence[B]
) -> dict[str, float]:
    """Return what an objective tells of batches: ``held_out_loss``, and more.

    Perplexity and accuracy (the share of targets that score highest) of one that predicts tokens,
    what it measures of any other.

    Raises:
        TrainingError: if the loss is not finite.
    """
    if isinstance(objective, Scoring):
        found = _scores(decoder, objective, batches)
    else:
        found = {"loss": held_out_loss(decoder, objective, batches)}
        measured = take_metrics(objective)
        found |= {"perplexity": perplexity(found["loss"])} if measured is None else measured
    return {f"held_out_{name}": value for name, value in found.items()}


def _scores(decoder: Decoder, objective: Scoring[B], batches: Sequence[B]) -> dict[str, float]:
    with _evaluating(decoder):
        every = [objective.scores(decoder, batch) for batch in batches]
    loss = _mean([(scores.loss, scores.terms) for scores in every])
    hits = int(torch.stack([scores.hits for scores in every]).sum())
    targets = sum(scores.targets for scores in every)
    return {"loss": loss, "perplexity": perplexity(loss), "accuracy": hits / max(1, targets)}


def held_out_loss(decoder: Decoder, objective: Objective[B], batches: Sequence[B]) -> float:
    """Return the mean loss per target over all batches; the model comes back in its mode.

    Raises:
        TrainingError: if it is not finite.
    """
    with _evaluating(decoder):
        begin_step(objective, decoder, batches)
        return _mean([objective.loss(decoder, batch) for batch in batches])


@contextmanager
def _evaluating(decoder: Decoder) -> Iterator[None]:
    """Put the model into evaluation mode, without gradients, while the block lasts."""
    was_training = decoder.training
    decoder.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        decoder.train(was_training)


def _mean(sums: Sequence[tuple[Tensor, int | float]]) -> float:
    """Return the mean per term of summed losses.

    Raises:
        TrainingError: if it is not finite.
    """
    total = float(torch.stack([loss.double() for loss, _ in sums]).sum())
    mean = total / (sum(terms for _, terms in sums) or 1)
    if not math.isfinite(mean):
        raise TrainingError(
            f"The held-out loss is {mean}; expected a finite number. Lower train.learning_rate; "
            "earlier checkpoints are intact."
        )
    return mean


def perplexity(loss: float) -> float:
    """Return exp(loss), bounded to what a float holds."""
    return math.exp(min(loss, _MAX_EXPONENT))
