"""What went wrong in a step whose loss or gradient is not finite: which module, which rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from danlu.errors import TrainingError, bullet_list
from danlu.models.decoder import Decoder
from danlu.train.objective import Objective

B = TypeVar("B")


@dataclass(frozen=True)
class FailedStep(Generic[B]):
    """A step, counted from 1, in which something was not finite.

    Attributes:
        number: of the step.
        found: what was not finite, such as ``the loss is nan``.
        batches: its micro-batches.
        origins: where its rows come from.
    """

    number: int
    found: str
    batches: Sequence[B]
    origins: Sequence[str]


def non_finite_error(
    decoder: Decoder,
    objective: Objective[B],
    weights: Mapping[str, Tensor],
    failed: FailedStep[B],
) -> TrainingError:
    """Return the error about a step, after running its batches again to find the culprit.

    Args:
        decoder: the model as it was in that step.
        objective: what the step computed.
        weights: the trained weights, with the gradients of the step.
        failed: the step.
    """
    culprit = _first_module(decoder, objective, failed.batches) or _last_gradient(weights)
    return TrainingError(
        f"In step {failed.number} {failed.found}; expected a finite number. {culprit} "
        "The step changed no weights, and earlier checkpoints are intact.\n"
        f"Rows of the step:{bullet_list(failed.origins)}\n"
        "Check these rows, lower train.learning_rate or lengthen train.warmup_steps."
    )


class _Found(Exception):
    """Carries the name of the first module with a non-finite output."""


def _first_module(decoder: Decoder, objective: Objective[B], batches: Sequence[B]) -> str | None:
    """Return a sentence about the first module whose output is not finite in a new forward pass."""
    handles = [
        module.register_forward_hook(_hook(name)) for name, module in decoder.named_modules()
    ]
    try:
        with torch.no_grad():
            for batch in batches:
                objective.loss(decoder, batch)
    except _Found as found:
        return _blame(decoder, str(found))
    finally:
        for handle in handles:
            handle.remove()
    return None


def _hook(name: str) -> Any:
    def check(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
            raise _Found(name)

    return check


def _blame(decoder: Decoder, name: str) -> str:
    parameters = decoder.get_submodule(name).named_parameters()
    broken = [key for key, value in parameters if not bool(torch.isfinite(value).all())]
    cause = f" Its parameters {', '.join(broken)} are not finite." if broken else ""
    return f"The first module with a non-finite output is {name!r}.{cause}"


def _last_gradient(weights: Mapping[str, Tensor]) -> str:
    """Return a sentence about the weight nearest the loss whose gradient is not finite."""
    for name, weight in reversed(list(weights.items())):
        if weight.grad is not None and not bool(torch.isfinite(weight.grad).all()):
            return f"All modules have finite outputs, but the gradient of {name!r} is not finite."
    return "All modules have finite outputs, so the loss itself overflowed."
