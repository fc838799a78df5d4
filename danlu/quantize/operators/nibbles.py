"""Integers of up to 4 bits kept two in a byte, for operators without a layout of their own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Size, Tensor

from danlu.quantize.codebook import pack_pairs, unpack_pairs
from danlu.quantize.grid import IntegerGrid
from danlu.quantize.weight import QuantizedWeight

ZERO = 8  # the nibble of code 0


@dataclass(frozen=True)
class NibbleGrid(QuantizedWeight):
    """An `IntegerGrid` of 2 to 4 bits and an even number of inputs, in half the memory.

    Attributes:
        packed: uint8 [out, in / 2], codes + 8, the first of two in the high half.
        scales: as in `IntegerGrid`.
        zero_points: likewise.
        groups: likewise.
        bits: likewise.
    """

    packed: Tensor
    scales: Tensor
    zero_points: Tensor | None
    groups: Tensor | None
    bits: int

    @classmethod
    def of(cls, grid: IntegerGrid) -> "NibbleGrid":
        """Return a grid in this form."""
        packed = pack_pairs((grid.codes + ZERO).to(torch.uint8))
        return cls(packed, grid.scales, grid.zero_points, grid.groups, grid.bits)

    def grid(self) -> IntegerGrid:
        """Return the grid as it was."""
        inputs = 2 * self.packed.shape[1]
        codes = unpack_pairs(self.packed, inputs).to(torch.int8) - ZERO
        return IntegerGrid(codes, self.scales, self.zero_points, self.bits, self.groups)

    @property
    def shape(self) -> Size:
        """[out, in]."""
        return Size((len(self.packed), 2 * self.packed.shape[1]))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the scales."""
        return self.scales.dtype

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the weight [out, in]."""
        return self.grid().dequantize(dtype)

    def rows(self, which: Tensor | slice) -> Self:
        """Return some outputs."""
        zeros = None if self.zero_points is None else self.zero_points[which]
        return replace(
            self, packed=self.packed[which], scales=self.scales[which], zero_points=zeros
        )

    @classmethod
    def stacked(cls, parts: Sequence[Self]) -> Self:
        """Return the outputs of all parts."""
        whole = cls.of(IntegerGrid.stacked([part.grid() for part in parts]))
        return replace(parts[0], **dict[str, Any](whole.tensors()))

    def to(self, dtype: torch.dtype) -> Self:
        """Return the weight with its scales in another dtype."""
        return replace(self, scales=self.scales.to(dtype))

    def tensors(self) -> dict[str, Tensor]:
        """Return codes, scales, and zero points and groups where there are any."""
        optional = {"zero_points": self.zero_points, "groups": self.groups}
        given = {name: tensor for name, tensor in optional.items() if tensor is not None}
        return {"packed": self.packed, "scales": self.scales, **given}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """Return the weight of other tensors."""
        return replace(self, **dict[str, Any](tensors))
