"""One optimizer step: gradients of a global batch, in float32, clipped, and the weights moved."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from danlu.train.job import Job
from danlu.train.objective import begin_step
from danlu.train.optimization.loss_scale import scaling_for
from danlu.train.optimization.optimizer import clip_factor, optimizer_for, scale_gradients
from danlu.train.optimization.schedule import scheduled_rate
from danlu.train.watchdog import FailedStep, non_finite_error

B = TypeVar("B")


@dataclass(frozen=True)
class StepResult:
    """What a step measured.

    Attributes:
        loss: per target, before the step.
        grad_norm: per target, before clipping; None if the step was skipped (see
            `danlu.train.optimization.loss_scale`).
        learning_rate: of this step.
        targets: how many terms the loss sums; the sum of their weights, where they have some.
    """

    loss: float
    grad_norm: float | None
    learning_rate: float
    targets: int | float


class Stepper(Generic[B]):
    """Moves the weights of a job, one step at a time.

    Attributes:
        optimizer: its state is part of every checkpoint.
        scaling: so is this.
    """

    def __init__(self, job: Job[B]) -> None:
        self.optimizer = optimizer_for(job.masters.weights, job.options, job.lr_scales)
        self.scaling = scaling_for(job.options.precision)
        self._job = job

    def make(self, step: int, batches: Sequence[B]) -> StepResult:
        """Make optimizer step `step`, counted from 0, on the micro-batches of a global batch.

        Raises:
            TrainingError: at a loss or gradient that is not finite; no weight has moved.
        """
        begin_step(self._job.objective, self._job.decoder, batches)
        loss_sum, targets = self._accumulate(batches)
        loss, norm = self._measured(loss_sum, targets)
        self._check(loss, norm, step, batches)
        rate = scheduled_rate(self._job.options, step, self._job.steps)
        is_finite = math.isfinite(norm)
        if is_finite:
            self._move_weights(norm, targets, rate)
        self._job.masters.clear()
        self.scaling.update(finite=is_finite)
        return StepResult(loss, norm if is_finite else None, rate, targets)

    def _accumulate(self, batches: Sequence[B]) -> tuple[Tensor, int | float]:
        """Add up the gradients of the summed loss; return that sum and the number of targets."""
        losses: list[Tensor] = []
        targets: int | float = 0
        for batch in batches:
            loss, count = self._job.objective.loss(self._job.decoder, batch)
            self.scaling.scaled(loss, count).backward()
            self._job.masters.collect()
            losses.append(loss.detach().double())
            targets += count
        return torch.stack(losses).sum(), targets

    def _measured(self, loss_sum: Tensor, targets: int | float) -> tuple[float, float]:
        """Return loss and gradient norm per target; the one wait for the device in a step."""
        norm_sum = torch.nn.utils.get_total_norm(self._job.masters.gradients())
        norm_sum = norm_sum.to(loss_sum) / self.scaling.scale
        loss, norm = (torch.stack([loss_sum, norm_sum]) / (targets or 1)).tolist()
        return loss, norm

    def _check(self, loss: float, norm: float, step: int, batches: Sequence[B]) -> None:
        job = self._job
        for name, value in (("loss", loss), ("gradient norm", norm)):
            may_skip = name == "gradient norm" and self.scaling.may_skip()
            if not math.isfinite(value) and not may_skip:
                found, origins = f"the {name} is {value}", job.source.origins()
                failed = FailedStep(step + 1, found, batches, origins)
                raise non_finite_error(job.decoder, job.objective, job.masters.weights, failed)

    def _move_weights(self, norm: float, targets: int | float, rate: float) -> None:
        """Clip, step and publish."""
        masters = self._job.masters
        factor = clip_factor(norm, self._job.options.max_grad_norm) / (targets or 1)
        scale_gradients(masters.gradients(), factor / self.scaling.scale)
        masters.complete()
        self.optimizer.set_learning_rate(rate)
        self.optimizer.step()
        masters.clear()
        masters.publish()
