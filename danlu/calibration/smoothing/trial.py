"""What a way to scale would cost: the error of the layers behind it, rounded to 8 bits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.config.quantize.scheme import QuantScheme
from danlu.quantize.activations import DynamicPerToken, InputRounding, StaticPerTensor
from danlu.quantize.rounding.rtn import quantize_rtn

EIGHT_BITS = QuantScheme(bits=8)

Recipe = Callable[[Tensor], Tensor]  # range_I of some text -> scale_I
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


class Trial:
    """Tries scales that were found by some text on inputs of other text.

    Args:
        weights: of the layers behind the scale, float32 [out, in].
        rows: inputs of each of them, float32 [N, in].
        range_I: size of each channel on the text that scales are found by.
        inputs: how inputs will be rounded, by that text.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        rows: Mapping[str, Tensor],
        range_I: Tensor,
        inputs: RoundedInputs,
    ) -> None:
        self._weights = weights
        self._rows = rows
        self._range_I = range_I
        self._inputs = inputs
        self._exact = {name: rows_NI @ weights[name].T for name, rows_NI in rows.items()}

    def error(self, recipe: Recipe) -> float:
        """Return the sum over the layers of |rounded - exact|^2 / |exact|^2 of their outputs."""
        scale_I = recipe(self._range_I)
        rounding = self._inputs(scale_I)
        total = 0.0
        for name, exact_NO in self._exact.items():
            weight_OI = quantize_rtn(self._weights[name] * scale_I, EIGHT_BITS, name).dequantize()
            found_NO = rounding.rounded(self._rows[name] / scale_I) @ weight_OI.T
            size = float(exact_NO.square().sum())
            total += float((found_NO - exact_NO).square().sum()) / max(size, torch.finfo().tiny)
        return total


@dataclass(frozen=True)
class Choice:
    """A way to scale, with its error."""

    error: float
    recipe: Recipe


def best(trials: Sequence[Trial], recipes: Sequence[Recipe]) -> Choice:
    """Return the recipe with the least error over all trials, the first of equal ones."""
    tried = (Choice(sum(trial.error(recipe) for trial in trials), recipe) for recipe in recipes)
    return min(tried, key=lambda choice: choice.error)
