"""int8 weights with a scale for each output, on the CPU."""

import torch
from torch import Tensor

from danlu.quantize.grid import IntegerGrid
from danlu.quantize.operators.operator import DENSE_ROWS, SLICE_WEIGHTS, Operator, as_integers


class Int8RowOperator(Operator):
    """Symmetric int8 with one scale per output row (`torch._weight_int8pack_mm`)."""

    label = "int8 weight-only kernel (dense product for prefill)"

    def __init__(self, weight: IntegerGrid) -> None:
        super().__init__()
        self._dtype = weight.dtype
        self.register_buffer("codes", weight.codes.contiguous())
        self.register_buffer("scale_bits", as_integers(weight.scales.flatten()))
        self.codes: Tensor
        self.scale_bits: Tensor

    @staticmethod
    def fits(weight: IntegerGrid) -> bool:
        """Return whether this operator can hold the weight."""
        plain = weight.zero_points is None and weight.whole_rows
        return plain and weight.bits == 8 and weight.codes.device.type == "cpu"

    @property
    def scales(self) -> Tensor:
        """One for each output."""
        return self.scale_bits.view(self._dtype)

    def multiply(self, x: Tensor) -> Tensor:
        """Return x W^T."""
        scales = self.scales.to(x.dtype)
        if x.shape[0] < DENSE_ROWS:
            return torch._weight_int8pack_mm(x, self.codes, scales)
        out = x.new_empty(x.shape[0], len(scales))
        rows = max(1, SLICE_WEIGHTS // self.codes.shape[1])
        for codes, part in zip(self.codes.split(rows), out.split(rows, dim=1), strict=True):
            torch.mm(x, codes.to(x.dtype).t(), out=part)
        return out.mul_(scales)

    def quantized(self) -> IntegerGrid:
        """Return the weight as codes and scales."""
        return IntegerGrid(self.codes, self.scales[:, None], None, bits=8)
