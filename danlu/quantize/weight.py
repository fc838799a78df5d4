"""A quantized weight as numbers: codes, scales, zero points. Knows no operator and no file."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class QuantizedWeight:
    """w[o, i] = (codes[o, i] - zero_points[o, g(i)]) * scales[o, g(i)].

    Attributes:
        codes: int8 [out, in], in [-2^(bits-1), 2^(bits-1)).
        scales: [out, G]; group g holds inputs g * in/G ... (g + 1) * in/G - 1.
        zero_points: int8 [out, G], or None for zero.
        bits: of a code.
    """

    codes: Tensor
    scales: Tensor
    zero_points: Tensor | None
    bits: int

    @property
    def group_size(self) -> int:
        """Inputs that share a scale."""
        return self.codes.shape[1] // self.scales.shape[1]

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the weight [out, in], computed in float32, in `dtype` (default: of the scales)."""
        codes_OGg = self.codes.unflatten(1, (self.scales.shape[1], -1)).float()
        if self.zero_points is not None:
            codes_OGg = codes_OGg - self.zero_points[..., None]
        weight: Tensor = (codes_OGg * self.scales.float()[..., None]).flatten(1)
        return weight.to(dtype or self.scales.dtype)

    def map_rows(self, change: Callable[[Tensor], Tensor]) -> "QuantizedWeight":
        """Return the weight with `change` applied to everything that has one row per output."""
        zeros = None if self.zero_points is None else change(self.zero_points)
        return QuantizedWeight(change(self.codes), change(self.scales), zeros, self.bits)

    def to(self, dtype: torch.dtype) -> "QuantizedWeight":
        """Return the weight with its scales in another dtype."""
        return QuantizedWeight(self.codes, self.scales.to(dtype), self.zero_points, self.bits)
