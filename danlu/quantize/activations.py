"""How the inputs of a quantized layer are rounded before the product.

Source: the numbers of compressed-tensors 0.19, whose scales are the range of the inputs by 255
steps (symmetric: max |x| / 127.5), with codes in [-128, 127]; arXiv:2211.10438, section 2.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

LOW, HIGH = -128, 127
STEPS = HIGH - LOW
SMALLEST_SCALE = torch.finfo(torch.float32).eps


class InputRounding(ABC):
    """Rounds what enters a quantized layer.

    The numbers are those of the kernels that serve such checkpoints; `rounded` is the reference.
    """

    @property
    @abstractmethod
    def summary(self) -> str:
        """The rounding in words."""

    @abstractmethod
    def rounded(self, x: Tensor) -> Tensor:
        """Return the inputs [..., in] as the product sees them, in the dtype of `x`."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return what it consists of; nothing where scales are found as inputs come."""

    @abstractmethod
    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """Return the rounding of other tensors (elsewhere, or changed)."""


class InputCodes(NamedTuple):
    """Inputs as integers: x = (codes - zero_points) * scales.

    Attributes:
        codes: float32 [..., in], whole numbers in [-128, 127].
        scales: float32, [..., 1] or one for all.
        zero_points: float32 of the shape of `scales`, or None for zero.
    """

    codes: Tensor
    scales: Tensor
    zero_points: Tensor | None

    def dequantize(self) -> Tensor:
        """Return the inputs in float32."""
        codes = self.codes if self.zero_points is None else self.codes - self.zero_points
        return codes * self.scales


class IntegerInputs(InputRounding):
    """Inputs on a grid of 8-bit integers, fit for integer products."""

    @abstractmethod
    def codes(self, x: Tensor) -> InputCodes:
        """Return the integers of inputs [..., in], found in float32 whatever their dtype."""

    def rounded(self, x: Tensor) -> Tensor:
        """Return the inputs as the integer product sees them."""
        return self.codes(x).dequantize().to(x.dtype)


@dataclass(frozen=True)
class DynamicPerToken(IntegerInputs):
    """A scale for each token, found as it comes.

    Attributes:
        symmetric: no zero points.
    """

    symmetric: bool = True

    @property
    def summary(self) -> str:
        """The rounding in words."""
        zeros = "" if self.symmetric else " with zero points"
        return f"8 bits, a scale for each token{zeros}"

    def codes(self, x: Tensor) -> InputCodes:
        """Return the integers of inputs [..., in] by the range of each row."""
        x = x.float()
        low, high = (bound[..., None] for bound in torch.aminmax(x, dim=-1))
        return _codes(x, *scale_and_zero(low, high, self.symmetric))

    def tensors(self) -> dict[str, Tensor]:
        """Return nothing."""
        return {}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """Return the same rounding."""
        return self


@dataclass(frozen=True)
class StaticPerTensor(IntegerInputs):
    """One scale for all inputs of the layer, found on calibration text; what exceeds it is cut.

    Attributes:
        scale: [1], of any floating-point dtype.
        zero_point: int8 [1], or None for zero.
    """

    scale: Tensor
    zero_point: Tensor | None = None

    @classmethod
    def of_range(cls, low: float, high: float, symmetric: bool = True) -> Self:
        """Return the rounding of inputs between `low` and `high`."""
        scale, zero = scale_and_zero(torch.tensor([low]), torch.tensor([high]), symmetric)
        return cls(scale, None if zero is None else zero.to(torch.int8))

    @property
    def summary(self) -> str:
        """The rounding in words."""
        zeros = "" if self.zero_point is None else " with a zero point"
        return f"8 bits, one scale for all tokens{zeros}"

    def codes(self, x: Tensor) -> InputCodes:
        """Return the integers of inputs [..., in]."""
        zero = None if self.zero_point is None else self.zero_point.float()
        return _codes(x.float(), self.scale.float(), zero)

    def tensors(self) -> dict[str, Tensor]:
        """Return the scale, and the zero point if there is one."""
        zeros = {} if self.zero_point is None else {"zero_point": self.zero_point}
        return {"scale": self.scale, **zeros}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """Return the rounding by another scale."""
        return type(self)(**dict[str, Any](tensors))


def scale_and_zero(low: Tensor, high: Tensor, symmetric: bool) -> tuple[Tensor, Tensor | None]:
    """Return the float32 scale and zero point of a range, which is widened to hold 0."""
    low, high = low.float().clamp(max=0), high.float().clamp(min=0)
    if symmetric:
        return _positive(torch.maximum(-low, high) / (STEPS / 2)), None
    scale = _positive((high - low) / STEPS)
    return scale, (LOW - low / scale).round().clamp(LOW, HIGH)


def _codes(x: Tensor, scale: Tensor, zero: Tensor | None) -> InputCodes:
    codes = x / scale if zero is None else x / scale + zero
    return InputCodes(codes.round_().clamp_(LOW, HIGH), scale, zero)


def _positive(scale: Tensor) -> Tensor:
    """Replace the scale of inputs that are zero; one that is not finite stays, to be seen."""
    return torch.where(scale == 0, SMALLEST_SCALE, scale)
