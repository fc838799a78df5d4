"""How far a rounded layer is from the layer that it was, as a share of what it was."""

import torch
from torch import Tensor
from torch.nn import functional as F

from danlu.quantize.activations import InputRounding
from danlu.quantize.weight import QuantizedWeight

SLICE_WEIGHTS = 2**22  # in float32 at a time
ROWS = 256  # of the inputs are enough for two digits of an error


def weight_error(exact_OI: Tensor, rounded: QuantizedWeight) -> float:
    """Return |W - W'| / |W|."""
    start, errors, sizes = 0, 0.0, 0.0
    for part in rounded.slices(SLICE_WEIGHTS):
        rows = exact_OI[start : start + part.shape[0]].float()
        errors += _square(rows - part.dequantize(torch.float32))
        sizes += _square(rows)
        start += part.shape[0]
    return _ratio(errors, sizes)


def output_error(
    exact_OI: Tensor, rounded: QuantizedWeight, x_NI: Tensor, inputs: InputRounding | None
) -> float:
    """Return |y - y'| / |y| of the products with inputs, of which some are taken evenly.

    Args:
        exact_OI: the weight.
        rounded: the weight that takes its place.
        x_NI: inputs.
        inputs: how they are rounded before the product, if they are.
    """
    x_NI = x_NI[:: max(1, len(x_NI) // ROWS)].float()
    exact_NO = F.linear(x_NI, exact_OI.float())
    entering_NI = x_NI if inputs is None else inputs.rounded(x_NI)
    rounded_NO = F.linear(entering_NI, rounded.dequantize(torch.float32))
    return _ratio(_square(exact_NO - rounded_NO), _square(exact_NO))


def _square(numbers: Tensor) -> float:
    return float(numbers.square().sum(dtype=torch.float64))


def _ratio(errors: float, sizes: float) -> float:
    """Return the ratio of two lengths, given squared; 1 where something came out of nothing."""
    return float((errors / sizes) ** 0.5) if sizes else float(errors > 0)
