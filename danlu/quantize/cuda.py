"""The operator of a quantized weight on a CUDA device."""

from danlu.quantize.compiled import CompactOperator, can_compile, compiled
from danlu.quantize.cuda_int4 import Int4TileOperator, int4_kernel_works
from danlu.quantize.grid import IntegerGrid
from danlu.quantize.operators import DequantizeOperator, Operator
from danlu.quantize.weight import QuantizedWeight


def choose_cuda_operator(weight: QuantizedWeight) -> Operator:
    """Return the fastest operator that fits a weight, of those that were seen to work.

    Kernels are tried once on each device, on known numbers; where they are missing or wrong, the
    plain product with a dequantized weight takes their place.
    """
    device = next(iter(weight.tensors().values())).device
    works = int4_kernel_works(device)
    if works and isinstance(weight, IntegerGrid) and Int4TileOperator.fits(weight):
        return Int4TileOperator(weight)
    if CompactOperator.fits(weight):
        return CompactOperator(weight, compiled if can_compile(device) else None)
    return DequantizeOperator(weight)
