"""What a scale would cost: the error of the layers behind it, rounded to 8 bits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.config.quantize.scheme import QuantScheme
from danlu.quantize.activations import DynamicPerToken, InputRounding, StaticPerTensor
from danlu.quantize.rtn import quantize_rtn

EIGHT_BITS = QuantScheme(bits=8)
RoundedInputs = Callable[[Tensor], InputRounding]  # scale_I -> how inputs divided by it are rounded


def dynamic_inputs(scale_I: Tensor) -> InputRounding:
    """Return rounding by each token's own range, whatever the scale."""
    return DynamicPerToken()


def static_inputs(low_I: Tensor, high_I: Tensor) -> RoundedInputs:
    """Return rounding on one scale for all, of channels with these ranges."""

    def rounding(scale_I: Tensor) -> InputRounding:
        low, high = float((low_I / scale_I).min()), float((high_I / scale_I).max())
        return StaticPerTensor.of_range(low, high)

    return rounding


@dataclass(frozen=True)
class Choice:
    """A scale, with its cost.

    Attributes:
        error: sum over the layers of |rounded - exact|^2 / |exact|^2 of their outputs.
        scale_I: for each channel.
    """

    error: float
    scale_I: Tensor


class Trial:
    """Tries scales on a sample of the inputs.

    Args:
        weights: of the layers behind the scale, float32 [out, in].
        rows: inputs of each of them, float32 [N, in].
        inputs: how their inputs will be rounded.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        rows: Mapping[str, Tensor],
        inputs: RoundedInputs,
    ) -> None:
        self._weights = weights
        self._rows = rows
        self._inputs = inputs
        self._exact = {name: rows[name] @ weight_OI.T for name, weight_OI in weights.items()}

    def best(self, scales: Sequence[Tensor]) -> Choice:
        """Return the scale with the least error, the first of equal ones."""
        return min((self.of(scale_I) for scale_I in scales), key=lambda choice: choice.error)

    def of(self, scale_I: Tensor) -> Choice:
        """Return a scale with its error."""
        rounding = self._inputs(scale_I)
        total = 0.0
        for name, exact_NO in self._exact.items():
            weight_OI = quantize_rtn(self._weights[name] * scale_I, EIGHT_BITS, name).dequantize()
            found_NO = rounding.rounded(self._rows[name] / scale_I) @ weight_OI.T
            size = float(exact_NO.square().sum())
            total += float((found_NO - exact_NO).square().sum()) / max(size, torch.finfo().tiny)
        return Choice(total, scale_I)
