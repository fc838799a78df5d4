"""The loss on data that is never trained on."""

import math
from collections.abc import Sequence
from typing import TypeVar

import torch

from danlu.errors import TrainingError
from danlu.models.decoder import Decoder
from danlu.train.objective import Objective, begin_step, take_metrics

B = TypeVar("B")
_MAX_EXPONENT = 700.0  # exp of more overflows


def held_out_metrics(
    decoder: Decoder, objective: Objective[B], batches: Sequence[B]
) -> dict[str, float]:
    """Return ``held_out_loss`` and ``held_out_perplexity``, or what the objective measures instead.

    Raises:
        TrainingError: if the loss is not finite.
    """
    loss = held_out_loss(decoder, objective, batches)
    measured = take_metrics(objective)
    if measured is None:
        measured = {"perplexity": perplexity(loss)}
    return {f"held_out_{name}": value for name, value in ({"loss": loss} | measured).items()}


@torch.no_grad()
def held_out_loss(decoder: Decoder, objective: Objective[B], batches: Sequence[B]) -> float:
    """Return the mean loss per target over all batches; the model comes back in its mode.

    Raises:
        TrainingError: if it is not finite.
    """
    was_training = decoder.training
    decoder.eval()
    try:
        begin_step(objective, decoder, batches)
        results = [objective.loss(decoder, batch) for batch in batches]
    finally:
        decoder.train(was_training)
    total = float(torch.stack([loss.double() for loss, _ in results]).sum())
    mean = total / max(1, sum(count for _, count in results))
    if not math.isfinite(mean):
        raise TrainingError(
            f"The held-out loss is {mean}; expected a finite number. Lower train.learning_rate; "
            "earlier checkpoints are intact."
        )
    return mean


def perplexity(loss: float) -> float:
    """Return exp(loss), bounded to what a float holds."""
    return math.exp(min(loss, _MAX_EXPONENT))
