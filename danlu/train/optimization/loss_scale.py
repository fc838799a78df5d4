"""Loss scaling (arXiv:1710.03740, sec. 3.2), with the growth and backoff of torch's GradScaler.

In float16, gradients below 6e-8 vanish. So the loss is multiplied by a scale before the backward
pass, and the float32 gradients of the masters are divided by it. Where they are not finite, the
scale was too large: the step is skipped and the scale halved. After `GROWTH_INTERVAL` good steps
it is doubled.

GradScaler begins with 2**16 for a loss that is a mean. Ours is a sum, so the first scale is 2**16
divided by the terms of the first micro-batch, rounded to a power of two.
"""

import math
from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from danlu.config.train import Precision

FIRST_SCALE, GROWTH, BACKOFF, GROWTH_INTERVAL = 2.0**16, 2.0, 0.5, 2000
LEAST_SCALE = 2.0**-16  # gradients that overflow even so are not a matter of scale


class Scaling(Protocol):
    """How losses are scaled; powers of two, so nothing is rounded."""

    @property
    def scale(self) -> float:
        """What gradients are multiplied by now."""

    def scaled(self, loss: Tensor, terms: float) -> Tensor:
        """Return the loss, a sum of so many terms, as the backward pass begins with it."""

    def may_skip(self) -> bool:
        """Return whether a gradient that is not finite may come from the scale."""

    def update(self, *, finite: bool) -> None:
        """Take note of a step whose gradients were finite, or which was skipped."""

    def metrics(self) -> dict[str, float]:
        """Return what a line of metrics tells of the scaling."""

    def state(self) -> dict[str, float]:
        """Return what a resumed run must know, as plain JSON."""

    def restore(self, state: Mapping[str, float]) -> None:
        """Take over what `state` returned."""


class NoScaling:
    """Losses as they are: float32 and bfloat16 have the range for them."""

    scale = 1.0

    def scaled(self, loss: Tensor, terms: float) -> Tensor:
        """Return the loss."""
        return loss

    def may_skip(self) -> bool:
        """Return False: a gradient that is not finite is an error."""
        return False

    def update(self, *, finite: bool) -> None:
        """Do nothing."""

    def metrics(self) -> dict[str, float]:
        """Return nothing."""
        return {}

    def state(self) -> dict[str, float]:
        """Return nothing."""
        return {}

    def restore(self, state: Mapping[str, float]) -> None:
        """Do nothing."""


class DynamicScaling:
    """A scale that falls when gradients overflow and grows while they do not.

    Attributes:
        scale: the scale now; 0 before the first loss.
        skipped: steps that were skipped in the whole run.
    """

    def __init__(self) -> None:
        self.scale = 0.0
        self.skipped = 0
        self._good = 0

    def scaled(self, loss: Tensor, terms: float) -> Tensor:
        """Return the loss multiplied by the scale."""
        if not self.scale:
            self.scale = FIRST_SCALE / 2.0 ** math.ceil(math.log2(max(1.0, terms)))
        return loss * self.scale

    def may_skip(self) -> bool:
        """Return whether the scale can still fall."""
        return self.scale > LEAST_SCALE

    def update(self, *, finite: bool) -> None:
        """Halve the scale after a skipped step, double it after many good ones."""
        self._good = self._good + 1 if finite else 0
        if not finite:
            self.skipped += 1
            self.scale *= BACKOFF
        elif self._good == GROWTH_INTERVAL:
            self._good = 0
            self.scale *= GROWTH

    def metrics(self) -> dict[str, float]:
        """Return the scale and how many steps were skipped so far."""
        return {"loss_scale": self.scale, "skipped_steps": self.skipped}

    def state(self) -> dict[str, float]:
        """Return scale, good steps since it changed, and skipped steps."""
        return {"scale": self.scale, "good_steps": self._good, "skipped_steps": self.skipped}

    def restore(self, state: Mapping[str, float]) -> None:
        """Take over what `state` returned."""
        self.scale = float(state["scale"])
        self._good, self.skipped = int(state["good_steps"]), int(state["skipped_steps"])


def scaling_for(precision: Precision) -> Scaling:
    """Return the scaling that a precision needs."""
    return DynamicScaling() if precision == "fp16" else NoScaling()
