"""How the inputs of a quantized layer are rounded before the product.

Source: the numbers of compressed-tensors 0.19, whose scales are the range of the inputs by 255
steps (symmetric: max |x| / 127.5), with codes in [-128, 127]; arXiv:2211.10438, section 2.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

LOW, HIGH = -128, 127
STEPS = HIGH - LOW
SMALLEST_SCALE = torch.finfo(torch.float32).tiny
SLICE_INPUTS = 2**19  # in float32 at a time, so that they stay in the cache


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

    def same_as(self, other: "InputRounding | None") -> bool:
        """Return whether another rounding gives the same numbers for all inputs."""
        if type(other) is not type(self) or other.summary != self.summary:
            return False
        mine, theirs = self.tensors(), other.tensors()
        return all(torch.equal(mine[name], theirs[name]) for name in mine)


class ExactColumns(NamedTuple):
    """Columns of inputs [M, in] that are not rounded.

    Attributes:
        which: int64 [C].
        inputs: float32 [M, C].
    """

    which: Tensor
    inputs: Tensor


class InputCodes(NamedTuple):
    """Inputs [M, in] as integers: x = (codes - zero_points) * scales, but for exact columns.

    Attributes:
        codes: int8 [M, in]; 0 in the exact columns.
        scales: float32, [M, 1] or one for all.
        zero_points: float32 of the shape of `scales`, or None for zero.
        exact: columns that are not rounded, if there are any.
    """

    codes: Tensor
    scales: Tensor
    zero_points: Tensor | None = None
    exact: ExactColumns | None = None

    def dequantize(self) -> Tensor:
        """Return the inputs [M, in] in float32."""
        codes = self.codes if self.zero_points is None else self.codes - self.zero_points
        inputs = codes.float() * self.scales
        return inputs if self.exact is None else inputs.index_copy_(1, *self.exact)

    def split(self, rows: int) -> list[Self]:
        """Return consecutive rows, so many at a time."""
        if len(self.codes) <= rows:
            return [self]
        return [self._rows(slice(i, i + rows)) for i in range(0, len(self.codes), rows)]

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the rows of all parts, one part after the other."""
        first = parts[0]
        if len(parts) == 1:
            return first
        own = first.scales.ndim == 2
        zeros = [part.zero_points for part in parts if part.zero_points is not None]
        exact = [part.exact.inputs for part in parts if part.exact is not None]
        return first._replace(
            codes=torch.cat([part.codes for part in parts]),
            scales=torch.cat([part.scales for part in parts]) if own else first.scales,
            zero_points=torch.cat(zeros) if own and zeros else first.zero_points,
            exact=first.exact and first.exact._replace(inputs=torch.cat(exact)),
        )

    def _rows(self, which: slice) -> Self:
        own = self.scales.ndim == 2
        scales, zeros = self.scales, self.zero_points
        exact = None if self.exact is None else self.exact._replace(inputs=self.exact.inputs[which])
        return self._replace(
            codes=self.codes[which],
            scales=scales[which] if own else scales,
            zero_points=zeros[which] if own and zeros is not None else zeros,
            exact=exact,
        )


class IntegerInputs(InputRounding):
    """Inputs on a grid of 8-bit integers, fit for integer products."""

    def codes(self, x_MI: Tensor) -> InputCodes:
        """Return the integers of inputs [M, in], found in float32 whatever their dtype."""
        return InputCodes.joined([self.of_rows(part) for part in in_cache(x_MI)])

    @abstractmethod
    def of_rows(self, x_MI: Tensor) -> InputCodes:
        """Return the integers of some rows of inputs."""

    def rounded(self, x: Tensor) -> Tensor:
        """Return the inputs as the integer product sees them."""
        codes = self.codes(x.reshape(-1, x.shape[-1]))
        return codes.dequantize().to(x.dtype).view_as(x)


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

    def of_rows(self, x_MI: Tensor) -> InputCodes:
        """Return the integers of some inputs by the range of each row."""
        if self.symmetric:
            largest = x_MI.abs().amax(-1, keepdim=True)
            return _codes(x_MI, _symmetric_scale(largest), None)
        low, high = x_MI.amin(-1, keepdim=True), x_MI.amax(-1, keepdim=True)
        return _codes(x_MI, *scale_and_zero(low, high, symmetric=False))

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

    def of_rows(self, x_MI: Tensor) -> InputCodes:
        """Return the integers of some inputs."""
        zero = None if self.zero_point is None else self.zero_point.float()
        return _codes(x_MI, self.scale.float(), zero)

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
        return _symmetric_scale(torch.maximum(-low, high)), None
    scale = _positive((high - low) / STEPS)
    return scale, (LOW - low / scale).round().clamp(LOW, HIGH)


def in_cache(x_MI: Tensor) -> Sequence[Tensor]:
    """Return consecutive rows, as many at a time as the cache holds."""
    rows = max(1, SLICE_INPUTS // max(1, x_MI.shape[1]))
    return [x_MI] if len(x_MI) <= rows else x_MI.split(rows)


def _codes(x_MI: Tensor, scale: Tensor, zero: Tensor | None) -> InputCodes:
    codes = x_MI.to(torch.float32, copy=True).div_(scale)
    codes = codes if zero is None else codes.add_(zero)
    return InputCodes(codes.round_().clamp_(LOW, HIGH).to(torch.int8), scale, zero)


def _symmetric_scale(largest: Tensor) -> Tensor:
    return _positive(largest.float() / (STEPS / 2))


def _positive(scale: Tensor) -> Tensor:
    """Replace the scale of inputs that are zero; one that is not finite stays, to be seen."""
    return scale.clamp_(min=SMALLEST_SCALE)
