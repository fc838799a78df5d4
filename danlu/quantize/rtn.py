"""Round to nearest: each group of weights gets the scale that just holds its range."""

import torch
from torch import Tensor

from danlu.config.quantize.scheme import QuantScheme
from danlu.errors import QuantizationError
from danlu.quantize.grid import IntegerGrid

SLICE_WEIGHTS = 2**22  # weights in float32 at a time


def quantize_rtn(weight_OI: Tensor, scheme: QuantScheme, name: str = "weight") -> IntegerGrid:
    """Return the weight rounded to the nearest codes; scales keep the dtype of the weight.

    Args:
        weight_OI: the dense weight [out, in].
        scheme: bits, group size and symmetry.
        name: of the layer, for errors.

    Raises:
        QuantizationError: if the group size does not divide the inputs, or a weight is not finite.
    """
    inputs = weight_OI.shape[1]
    group = scheme.group_size or -1
    group = inputs if group == -1 else group
    if inputs % group:
        raise QuantizationError(
            f"{name} has {inputs} inputs, which groups of {group} do not divide. "
            "Choose a --group-size that divides them, or -1 for one scale per row."
        )
    rounded = _symmetric if scheme.symmetric else _asymmetric
    slices = []
    for rows in weight_OI.split(max(1, SLICE_WEIGHTS // inputs)):
        groups_OGg = rows.float().unflatten(1, (-1, group))
        if not bool(torch.isfinite(groups_OGg).all()):
            raise QuantizationError(
                f"{name} holds values that are not finite; check the checkpoint."
            )
        slices.append(rounded(groups_OGg, scheme.bits, weight_OI.dtype))
    return IntegerGrid.stacked(slices)


def _symmetric(groups_OGg: Tensor, bits: int, dtype: torch.dtype) -> IntegerGrid:
    high = 2 ** (bits - 1) - 1
    scales_OG = _positive((groups_OGg.abs().amax(-1) / (high + 0.5)).to(dtype))
    codes = (groups_OGg / scales_OG.float()[..., None]).round_().clamp_(-high - 1, high)
    return IntegerGrid(codes.to(torch.int8).flatten(1), scales_OG, None, bits)


def _asymmetric(groups_OGg: Tensor, bits: int, dtype: torch.dtype) -> IntegerGrid:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    smallest = groups_OGg.amin(-1).clamp(max=0)
    largest = groups_OGg.amax(-1).clamp(min=0)
    scales_OG = _positive(((largest - smallest) / (high - low)).to(dtype))
    zeros_OG = (low - smallest / scales_OG.float()).round_().clamp_(low, high)
    codes = (groups_OGg / scales_OG.float()[..., None] + zeros_OG[..., None]).round_()
    codes = codes.clamp_(low, high).to(torch.int8).flatten(1)
    return IntegerGrid(codes, scales_OG, zeros_OG.to(torch.int8), bits)


def _positive(scales: Tensor) -> Tensor:
    """Replace scales of groups that are zero, or too small for the dtype (codes 0)."""
    return torch.where(scales > 0, scales, torch.ones_like(scales))
