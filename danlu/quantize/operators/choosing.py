"""The operator of a quantized weight, by what it is and where."""

from danlu.quantize.grid import IntegerGrid
from danlu.quantize.operators.cuda import choose_cuda_operator
from danlu.quantize.operators.int4_groups import Int4GroupOperator
from danlu.quantize.operators.int8_rows import Int8RowOperator
from danlu.quantize.operators.operator import DequantizeOperator, Operator
from danlu.quantize.weight import QuantizedWeight


def choose_operator(weight: QuantizedWeight) -> Operator:
    """Return the fastest operator that fits the weight and the device it is on."""
    if next(iter(weight.tensors().values())).device.type == "cuda":
        return choose_cuda_operator(weight)
    if not isinstance(weight, IntegerGrid) or weight.groups is not None:
        return DequantizeOperator(weight)
    if Int8RowOperator.fits(weight):
        return Int8RowOperator(weight)
    if Int4GroupOperator.fits(weight):
        return Int4GroupOperator(weight)
    return DequantizeOperator(weight)
