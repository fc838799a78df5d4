"""Round to nearest: each group of weights gets the scale that just holds its range."""

import torch
from torch import Tensor

from danlu.config.quantize.grouping import usual_group_size
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
    group = group_inputs(inputs, scheme.method, scheme.group_size, name)
    slices = []
    for rows in weight_OI.split(max(1, SLICE_WEIGHTS // inputs)):
        check_finite(rows, name)
        groups_OGg = rows.float().unflatten(1, (-1, group))
        slices.append(_rounded(groups_OGg, scheme, weight_OI.dtype))
    return IntegerGrid.stacked(slices)


def group_inputs(inputs: int, method: str, group_size: int | None, name: str) -> int:
    """Return how many inputs share a scale.

    Args:
        inputs: of the layer.
        method: of the scheme.
        group_size: as the scheme says it, -1 for all of them, None for what fits.
        name: of the layer, for errors.

    Raises:
        QuantizationError: if they do not divide the inputs.
    """
    size = usual_group_size(method, inputs) if group_size is None else group_size
    group = inputs if size == -1 else size
    if inputs % group:
        raise QuantizationError(
            f"{name} has {inputs} inputs, which groups of {group} do not divide. "
            "Choose a --group-size that divides them, or -1 for one scale per row."
        )
    return group


def check_finite(weight: Tensor, name: str) -> None:
    """Raise a `QuantizationError` if a weight is not finite."""
    if not bool(torch.isfinite(weight).all()):
        raise QuantizationError(f"{name} holds values that are not finite; check the checkpoint.")


def grid_of(
    weights: Tensor, dim: int, bits: int, symmetric: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """Return the grid that just holds the range of each group.

    Args:
        weights: float32, each group along `dim`.
        dim: along which a group lies.
        bits: of a code.
        symmetric: no zero points.
        dtype: of the scales.

    Returns:
        Scales in `dtype` and zero points (float32, whole numbers of so many bits; None for zero),
        without `dim`.
    """
    low, high = code_range(bits)
    if symmetric:
        return _positive((weights.abs().amax(dim) / (high + 0.5)).to(dtype)), None
    smallest = weights.amin(dim).clamp(max=0)
    largest = weights.amax(dim).clamp(min=0)
    scales = _positive(((largest - smallest) / (high - low)).to(dtype))
    return scales, (low - smallest / scales.float()).round_().clamp_(low, high)


def code_range(bits: int) -> tuple[int, int]:
    """Return the smallest and the largest code."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def _rounded(groups_OGg: Tensor, scheme: QuantScheme, dtype: torch.dtype) -> IntegerGrid:
    assert scheme.symmetric is not None
    scales_OG, zeros_OG = grid_of(groups_OGg, -1, scheme.bits, scheme.symmetric, dtype)
    codes = groups_OGg / scales_OG.float()[..., None]
    if zeros_OG is not None:
        codes += zeros_OG[..., None]
    codes = codes.round_().clamp_(*code_range(scheme.bits)).to(torch.int8).flatten(1)
    points = None if zeros_OG is None else zeros_OG.to(torch.int8)
    return IntegerGrid(codes, scales_OG, points, scheme.bits)


def _positive(scales: Tensor) -> Tensor:
    """Replace scales of groups that are zero, or too small for the dtype (codes 0)."""
    return torch.where(scales > 0, scales, torch.ones_like(scales))
