"""One row by int8 weights, compiled for this processor.

The ready-made kernel reads rows of few inputs at half the speed of the memory; a compiled reduction
reads them at nearly all of it. Compiling takes seconds, once for each process (the compiler keeps
what it made on the disk), so it is done where it is asked for.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from danlu.quantize.grid import IntegerGrid
from danlu.quantize.linear import QuantizedLinear
from danlu.quantize.operators.int8_rows import Int8RowOperator

SHORT_INPUTS = 2048  # the ready-made kernel is faster on longer rows


class CompiledInt8RowOperator(Int8RowOperator):
    """`Int8RowOperator` whose product with a single row is a compiled reduction."""

    label = "compiled int8 product (dense product for prefill)"

    def multiply(self, x: Tensor) -> Tensor:
        """Return x W^T."""
        if x.shape[0] > 1:
            return super().multiply(x)
        return compiled_product()(self.codes, self.scales, x[0].float()).to(x.dtype)[None]


def compile_products(model: nn.Module) -> int:
    """Compile what gains from it; return the number of layers."""
    quantized = [layer for layer in model.modules() if isinstance(layer, QuantizedLinear)]
    layers = [layer for layer in quantized if _gains(layer)]
    for layer in layers:
        weight = layer.operator.quantized()
        assert isinstance(weight, IntegerGrid)
        layer.operator = CompiledInt8RowOperator(weight)
    return len(layers)


def _gains(layer: QuantizedLinear) -> bool:
    return type(layer.operator) is Int8RowOperator and layer.in_features < SHORT_INPUTS


@cache
def compiled_product() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return the product [out] of int8 codes [out, in], scales [out] and one float32 row [in]."""
    made: Callable[[Tensor, Tensor, Tensor], Tensor] = torch.compile(
        product, dynamic=True, fullgraph=True
    )
    return made


def product(codes_OI: Tensor, scales_O: Tensor, x_I: Tensor) -> Tensor:
    """Return the product [out], computed in float32."""
    return (codes_OI.float() * x_I).sum(-1) * scales_O.float()
