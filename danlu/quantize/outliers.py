"""LLM.int8(): 8-bit rows of inputs and weights, with columns of large inputs left exact.

Source: arXiv:2208.07339, section 3; numbers as bitsandbytes 0.50 computes them: inputs are taken
in float16, a column is exact if an input in it reaches the threshold, and the scale of a row is
max |x| / 127 over its inputs below the threshold. So the rows of a batch decide together what is
rounded; each is within what rounding costs alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from danlu.errors import QuantizationError
from danlu.quantize.activations import ExactColumns, InputCodes, IntegerInputs
from danlu.quantize.grid import IntegerGrid

INT8_STEPS = 127
SLICE_WEIGHTS = 2**22  # weights in float32 at a time


@dataclass(frozen=True)
class OutlierColumns(IntegerInputs):
    """Inputs in 8 bits with a scale for each row, but for columns that hold large ones.

    Attributes:
        threshold: inputs of this size and more are large; 0: none is.
    """

    threshold: float = 6.0

    @property
    def summary(self) -> str:
        """The rounding in words."""
        exact = f", columns exact where one reaches {self.threshold:g}" if self.threshold else ""
        return f"8 bits, a scale for each token{exact}"

    def codes(self, x_MI: Tensor) -> InputCodes:
        """Return the integers of rows that are one batch."""
        x = _as_float16(x_MI)
        if not self.threshold:
            return _rows(x)
        large = x.abs() >= self.threshold
        columns = large.any(0).nonzero().flatten()
        if not len(columns):
            return _rows(x)
        codes, scales, _, _ = _rows(x.masked_fill(large, 0))
        exact = ExactColumns(columns, x[:, columns])
        return InputCodes(codes.index_fill_(1, columns, 0), scales, exact=exact)

    def tensors(self) -> dict[str, Tensor]:
        """Return nothing: the threshold is a number of the config."""
        return {}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """Return the same rounding."""
        return self


def quantize_int8_rows(weight_OI: Tensor, name: str = "weight") -> IntegerGrid:
    """Return the weight as LLM.int8() rounds it: by max |w| / 127 of each row, in float32.

    Raises:
        QuantizationError: if a weight is not finite.
    """
    parts = []
    for part in weight_OI.split(max(1, SLICE_WEIGHTS // weight_OI.shape[1])):
        codes, scales, _, _ = _rows(part.float())
        if not bool(torch.isfinite(scales).all()):
            raise QuantizationError(
                f"{name} holds values that are not finite; check the checkpoint."
            )
        parts.append(IntegerGrid(codes.to(torch.int8), scales, None, bits=8))
    return IntegerGrid.stacked(parts)


def _rows(x: Tensor) -> InputCodes:
    """Return the integers of each row of float32 numbers; ties fall as they do in bitsandbytes."""
    largest = x.abs().amax(-1, keepdim=True)
    per_step = INT8_STEPS / torch.where(largest == 0, 1, largest)
    return InputCodes((x * per_step).round_(), largest / INT8_STEPS)


def _as_float16(x: Tensor) -> Tensor:
    """Return numbers as float16 holds them, in float32; those too large for it as they are."""
    half = x.to(torch.float16).float()
    return torch.where(half.isinf(), x.float(), half)
