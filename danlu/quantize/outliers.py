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
from danlu.quantize.activations import ExactColumns, InputCodes, IntegerInputs, in_cache
from danlu.quantize.grid import IntegerGrid

INT8_STEPS = 127
SLICE_WEIGHTS = 2**22  # weights in float32 at a time


@dataclass(frozen=True)
class OutlierColumns(IntegerInputs):
    """Inputs in 8 bits with a scale for each row, but for columns that hold large ones.

    Attributes:
        threshold: inputs of this size and more are large; 0: none is, and all must fit float16.
    """

    threshold: float = 6.0

    @property
    def summary(self) -> str:
        """The rounding in words."""
        exact = f", columns exact where one reaches {self.threshold:g}" if self.threshold else ""
        return f"8 bits, a scale for each token{exact}"

    def codes(self, x_MI: Tensor) -> InputCodes:
        """Return the integers of rows that are one batch."""
        columns = self._columns(x_MI) if self.threshold else x_MI.new_empty(0)
        if not len(columns):
            return super().codes(x_MI)
        return InputCodes.joined([self._around(columns, part) for part in in_cache(x_MI)])

    def of_rows(self, x_MI: Tensor) -> InputCodes:
        """Return the integers of some rows, none of which holds a large input."""
        x = _as_float16(x_MI)
        return _codes(x, x.abs().amax(-1, keepdim=True))

    def _columns(self, x_MI: Tensor) -> Tensor:
        """Return the inputs that are large in some row."""
        largest = [_as_float16(part).abs().amax(0) for part in in_cache(x_MI) if len(part)]
        large = [part >= self.threshold for part in largest]
        return torch.stack(large).any(0).nonzero().flatten() if large else x_MI.new_empty(0)

    def _around(self, columns: Tensor, x_MI: Tensor) -> InputCodes:
        """Return the integers of some rows, and what some columns hold as it is.

        Inputs of these columns that are not large count in the scales, as in bitsandbytes.
        """
        x = _as_float16(x_MI)
        exact = x[:, columns]
        small = exact.abs().masked_fill(exact.abs() >= self.threshold, 0).amax(-1, keepdim=True)
        others = x.abs().index_fill_(1, columns, 0).amax(-1, keepdim=True)
        rounded = _codes(x.index_fill(1, columns, 0), torch.maximum(small, others))
        return rounded._replace(exact=ExactColumns(columns, _finite(exact, x_MI[:, columns])))

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
        part = part.float()
        codes, scales, _, _ = _codes(part, part.abs().amax(-1, keepdim=True))
        if not bool(torch.isfinite(scales).all()):
            raise QuantizationError(
                f"{name} holds values that are not finite; check the checkpoint."
            )
        parts.append(IntegerGrid(codes, scales, None, bits=8))
    return IntegerGrid.stacked(parts)


def _codes(x: Tensor, largest: Tensor) -> InputCodes:
    """Return the integers of rows with these ranges; ties fall as they do in bitsandbytes."""
    per_step = INT8_STEPS / torch.where(largest == 0, 1, largest)
    return InputCodes((x * per_step).round_().to(torch.int8), largest / INT8_STEPS)


def _as_float16(x: Tensor) -> Tensor:
    """Return numbers as float16 holds them, in float32.

    Those of bfloat16 it holds, but for some near zero, which stay; too large ones are infinite.
    """
    return x.to(torch.float16).float() if x.dtype == torch.float32 else x.float()


def _finite(x: Tensor, exact: Tensor) -> Tensor:
    """Return the numbers that float16 holds, and the others exactly."""
    return torch.where(x.isinf(), exact.float(), x)
