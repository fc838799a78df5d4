"""Dequantization as functions of tensors alone, which torch can compile into one kernel.

The formulas are those of `IntegerGrid` and `CodeBookWeight`; sizes come from the tensors, so that
one compiled function serves all layers of a model. What is left to close over (the size of a block
of scales) is the same for all layers of a scheme.
"""

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from danlu.quantize.codebook import CodeBookWeight, DoubleScales
from danlu.quantize.grid import IntegerGrid
from danlu.quantize.operators.nibbles import ZERO, NibbleGrid
from danlu.quantize.weight import QuantizedWeight

Tensors = dict[str, Tensor]
Dense = Callable[[Tensors, torch.dtype], Tensor]


def dense_function(weight: QuantizedWeight) -> Dense | None:
    """Return what computes the weight [out, in] of `weight.tensors()` in a dtype, if there is such.

    The same function comes for all weights of a scheme.
    """
    if isinstance(weight, IntegerGrid):
        return dense_codes
    if isinstance(weight, NibbleGrid):
        return dense_nibbles
    if isinstance(weight, CodeBookWeight) and weight.num_inputs % 2 == 0:
        run = math.gcd(weight.num_inputs, weight.block_size)
        double = weight.scales.block_size if isinstance(weight.scales, DoubleScales) else None
        return dense_entries(run, weight.block_size, double)
    return None


def dense_codes(tensors: Tensors, dtype: torch.dtype) -> Tensor:
    """Return the weight of an `IntegerGrid`, computed in float32."""
    return _scaled(tensors["codes"].float(), tensors).to(dtype)


def dense_nibbles(tensors: Tensors, dtype: torch.dtype) -> Tensor:
    """Return the weight of a `NibbleGrid`, computed in float32."""
    return _scaled(_halves(tensors["packed"]).float() - ZERO, tensors).to(dtype)


@cache
def dense_entries(run: int, block_size: int, scales_block_size: int | None) -> Dense:
    """Return what computes the weight of a `CodeBookWeight`.

    Args:
        run: consecutive inputs that share a scale in every row.
        block_size: weights that share a scale.
        scales_block_size: scales that share a scale; None: scales are plain.
    """

    def dense(tensors: Tensors, dtype: torch.dtype) -> Tensor:
        entries_OI = tensors["book"][_halves(tensors["packed"]).int()]
        offsets = torch.arange(0, entries_OI.shape[1], run, device=entries_OI.device)
        blocks_OR = (tensors["starts"][:, None] + offsets) // block_size
        if scales_block_size is None:
            scales_OR = tensors["scale_values"][blocks_OR]
        else:
            codes_OR = tensors["scale_codes"][blocks_OR].int()
            absmax_OR = tensors["scale_absmax"][blocks_OR // scales_block_size]
            scales_OR = tensors["scale_book"][codes_OR] * absmax_OR + tensors["scale_offset"]
        weight_OI: Tensor = (entries_OI.unflatten(1, (-1, run)) * scales_OR[..., None]).flatten(1)
        return weight_OI.to(dtype)

    return dense


def _halves(packed: Tensor) -> Tensor:
    """Return the codes [out, in] of bytes [out, in / 2]."""
    return torch.stack((packed >> 4, packed & 15), dim=-1).flatten(1)


def _scaled(codes_OI: Tensor, tensors: Tensors) -> Tensor:
    scales_OG, zeros_OG = tensors["scales"].float(), tensors.get("zero_points")
    if "groups" in tensors:
        codes_OI = codes_OI if zeros_OG is None else codes_OI - zeros_OG[:, tensors["groups"]]
        return codes_OI * scales_OG[:, tensors["groups"]]
    codes_OGg = codes_OI.unflatten(1, (scales_OG.shape[1], -1))
    if zeros_OG is not None:
        codes_OGg = codes_OGg - zeros_OG[..., None]
    weight_OI: Tensor = (codes_OGg * scales_OG[..., None]).flatten(1)
    return weight_OI
