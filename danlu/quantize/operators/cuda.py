"""The operator of a quantized weight on a CUDA device."""

from functools import cache

import torch

from danlu.quantize.grid import IntegerGrid
from danlu.quantize.operators.compiled import CompactOperator, can_compile, compiled
from danlu.quantize.operators.cuda_int4 import Int4TileOperator, int4_kernel_works
from danlu.quantize.operators.int8_rows import Int8RowOperator
from danlu.quantize.operators.operator import DequantizeOperator, Operator
from danlu.quantize.weight import QuantizedWeight

CLOSE = 2e-2  # relative; bfloat16 rounds outputs to 2^-9


def choose_cuda_operator(weight: QuantizedWeight) -> Operator:
    """Return the fastest operator that fits a weight, of those that were seen to work.

    Kernels are tried once on each device, on known numbers; where they are missing or wrong, the
    plain product with a dequantized weight takes their place.
    """
    device = next(iter(weight.tensors().values())).device
    compiler = compiled if can_compile(device) else None
    if isinstance(weight, IntegerGrid):
        if Int4TileOperator.fits(weight) and int4_kernel_works(device):
            return Int4TileOperator(weight)
        if compiler is None and _is_int8_rows(weight) and int8_kernel_works(device):
            return Int8RowOperator(weight)
    if CompactOperator.fits(weight):
        return CompactOperator(weight, compiler)
    return DequantizeOperator(weight)


def _is_int8_rows(weight: IntegerGrid) -> bool:
    plain = weight.zero_points is None and weight.groups is None
    return plain and weight.bits == 8 and weight.whole_rows


@cache
def int8_kernel_works(device: torch.device) -> bool:
    """Return whether torch has its weight-only int8 kernel there, tried once on known numbers.

    It came to CUDA with torch 2.9, and gains less than what is compiled: it stands in for that.
    """
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-128, 128, (32, 64), generator=generator, dtype=torch.int8)
    grid = IntegerGrid(codes.to(device), torch.ones(32, 1, device=device), None, bits=8)
    x = torch.randn(2, 64, generator=generator).to(device, torch.bfloat16)
    wanted = x.float() @ grid.dequantize(torch.float32).t()
    try:
        found = Int8RowOperator(grid).multiply(x).float()
    except RuntimeError:  # no such kernel in this build
        return False
    return float((found - wanted).norm()) <= CLOSE * float(wanted.norm())
